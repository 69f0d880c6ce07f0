"""A state of training on disk: tensors as safetensors, everything else as JSON. Never pickle."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

TENSORS = "state.safetensors"
STRUCTURE = "state.json"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers, strings and None into a folder."""
    tensors: dict[str, Tensor] = {}
    structure = _without_tensors(state, "", tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / TENSORS)
    (folder / STRUCTURE).write_text(json.dumps(structure), encoding="utf-8")


def load_state(folder: Path) -> dict[str, Any]:
    """What `save_state` wrote, with its tensors on the CPU."""
    structure = json.loads((folder / STRUCTURE).read_text(encoding="utf-8"))
    state = _with_tensors(structure, load_file(folder / TENSORS))
    assert isinstance(state, dict)
    return state


def latest_state(folder: Path, spec: str) -> Path | None:
    """The folder of the state of a spec that got furthest, anywhere below `folder`.

    Parts of states, left by killed processes, are skipped; so is what other runs remove meanwhile.
    """
    states: list[tuple[int, Path]] = []
    for root, _, names in os.walk(folder):  # unlike rglob, it tolerates folders that vanish
        if STRUCTURE not in names:
            continue
        file = Path(root, STRUCTURE)
        try:
            structure = json.loads(file.read_text(encoding="utf-8"))
            if dict(structure["dict"]).get("spec") == spec:
                state = load_state(file.parent)  # all of it, to see that it is whole
                states.append((state["epochs_done"], file.parent))
        except (OSError, ValueError, KeyError, SafetensorError):
            continue
    return max(states, default=(0, None))[1]


def _without_tensors(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    match node:
        case Tensor():
            # A copy: safetensors wants plain layout, and no two tensors in the same memory.
            plain = node.detach().cpu().clone(memory_format=torch.contiguous_format)
            tensors[path] = plain
            return {"tensor": path}
        case dict():
            # Pairs, because the keys of an optimizer's state are numbers and JSON's are not.
            pairs = [
                [key, _without_tensors(value, f"{path}/{key}", tensors)]
                for key, value in node.items()
            ]
            return {"dict": pairs}
        case list() | tuple():
            return [
                _without_tensors(value, f"{path}/{index}", tensors)
                for index, value in enumerate(node)
            ]
        case None | bool() | int() | float() | str():
            return node
        case _:
            msg = f"{path} is a {type(node).__name__}, which a checkpoint cannot hold"
            raise TypeError(msg)


def _with_tensors(node: Any, tensors: dict[str, Tensor]) -> Any:
    match node:
        case {"tensor": path}:
            return tensors[path]
        case {"dict": pairs}:
            return {key: _with_tensors(value, tensors) for key, value in pairs}
        case list():
            return [_with_tensors(value, tensors) for value in node]
        case _:
            return node
