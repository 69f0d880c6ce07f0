"""States on disk: whole or passed over, and without pickle."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imgrec.training import checkpoint
from imgrec.training.checkpoint import latest_state, load_state, save_state
from tests.unit.training.made import spec_for, trained


def test_the_state_that_got_furthest_is_found_and_broken_or_foreign_ones_are_passed_over(
    tmp_path: Path,
) -> None:
    """A killed process may leave half a state; another spec's weights would be worse than none."""
    spec = spec_for("ann", tmp_path / "data")
    trained(spec, stop_after=1, folder=tmp_path / "a" / "epoch-1")
    trained(spec, stop_after=2, folder=tmp_path / "b" / "epoch-2")
    trained(spec, stop_after=3, folder=tmp_path / "b" / "epoch-3")
    tensors = tmp_path / "b" / "epoch-3" / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    other = replace(spec, seed=1)

    assert latest_state(tmp_path, spec.key) == tmp_path / "b" / "epoch-2"
    assert latest_state(tmp_path, other.key) is None
    assert latest_state(tmp_path / "nowhere", spec.key) is None


def test_states_that_vanish_while_they_are_looked_through_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run beside this one replaces its checkpoints all the time, in whatever moment."""
    kept = tmp_path / "ours"
    save_state(kept, {"spec": "key", "epochs_done": 1, "weight": torch.ones(3)})
    read_text, load_whole = Path.read_text, checkpoint.load_state
    vanished = []

    def vanish(folder: Path) -> None:
        if "other" in folder.name:
            shutil.rmtree(folder)
            vanished.append(folder)

    def read_late(self: Path, *args: Any, **settings: Any) -> str:
        if self.parent.name == "other-1":
            vanish(self.parent)
        return read_text(self, *args, **settings)

    def load_late(folder: Path) -> dict[str, Any]:
        if folder.name == "other-2":
            vanish(folder)
        return load_whole(folder)

    for name in ("other-1", "other-2"):
        save_state(tmp_path / name, {"spec": "key", "epochs_done": 9, "weight": torch.ones(3)})
    monkeypatch.setattr(Path, "read_text", read_late)
    monkeypatch.setattr(checkpoint, "load_state", load_late)

    assert latest_state(tmp_path, "key") == kept
    assert len(vanished) == 2


def test_a_state_comes_back_as_it_was_without_pickle(tmp_path: Path) -> None:
    """Keys that are numbers, None, tensors of any layout, two names for one memory."""
    shared = torch.rand(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    state: dict[str, Any] = {
        "a": {0: {"exp": shared, "n": 3}, 1: None},
        "b": [shared, 1.5, "x", True],
        "c": {},
    }
    save_state(tmp_path, state)
    back = load_state(tmp_path)

    assert torch.equal(back["a"][0]["exp"], shared)
    assert back["a"][0]["n"] == 3
    assert back["a"][1] is None
    assert back["b"][1:] == [1.5, "x", True]
    assert back["c"] == {}
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    with pytest.raises(TypeError, match="cannot hold"):
        save_state(tmp_path, {"x": object()})
