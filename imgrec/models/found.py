"""Weights where they were found: in a package, a file or folder, the hub's cache, or kept by an earlier run."""

import dataclasses
import glob
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open

from imgrec.config.architectures.architecture import network_of
from imgrec.errors import ConfigError, reason_of
from imgrec.models import hub
from imgrec.models.packages import Package

ENDING = ".safetensors"


Three = Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]
Pixels = Annotated[int, Field(ge=1, le=4096)]


class _Told(BaseModel):
    """What a config.json of the hub may say of weights, in timm's words."""

    input_size: tuple[Literal[3], Pixels, Pixels] = (3, 224, 224)
    mean: Three = (0.0,) * 3
    std: Annotated[
        tuple[Annotated[float, Field(gt=0.0)], ...], Field(min_length=3, max_length=3)
    ] = (1.0,) * 3
    crop_pct: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    interpolation: str = "bicubic"
    license: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Weights where they were found.

    Attributes:
        name: Of the network and its weights.
        source: Where they are from, for people.
        file: None where they are yet to be fetched.
        cfg: timm's pretrained_cfg.
        repository: Of the hub, where they were found by that name; empty for a file of the user's.
        package: Where a package brought them.
    """

    name: str
    source: str
    file: Path | None
    cfg: dict[str, Any]
    repository: str = ""
    package: Package | None = None


def of_package(name: str, package: Package, path: Path) -> Found:
    """Weights that a package brought."""
    version = metadata.version(package.distribution)
    return Found(
        name=name,
        source=f"the package {package.distribution} {version}",
        file=path,
        cfg=cfg_of(f"timm/{name}", name) | {"license": package.licence},
        repository=f"timm/{name}",
        package=package,
    )


def of_path(
    path: Path, name: str, backbone: str, where: str, known: dict[str, Any] | None = None
) -> Found:
    """A file, or a folder as the hub has it.

    Args:
        path: Of either.
        name: What to call the weights.
        backbone: The network.
        where: The setting.
        known: What timm knows of weights of this name; without it the licence is not known.
    """
    file = path / hub.HUB_FILE if path.is_dir() else path
    if not file.is_file():
        msg = f"{where} = {str(path)!r}: no such file"
        if path.is_dir():
            msg = f"{where} = {str(path)!r}: no {hub.HUB_FILE} in it"
        raise ConfigError(msg)
    if file.suffix != ENDING:
        msg = (
            f"{where} = {str(path)!r}: only {ENDING} files are read, for others can run code; convert it with "
            f"safetensors.torch.save_file"
        )
        raise ConfigError(msg)
    cfg = known or cfg_of("", backbone)
    if file.name == hub.HUB_FILE:
        cfg |= told_by(file.with_name(hub.HUB_CONFIG))
    return Found(name, f"the file {file}", file, cfg)


def of_note(home: Path, repository: str) -> Found | None:
    """What an earlier run of the same storage has kept of a repository, the newest of them."""
    name = repository.rpartition("/")[2]
    notes = sorted(home.glob(f"{glob.escape(name)}.*.json"), key=lambda note: note.stat().st_mtime)
    for note in reversed(notes):
        with suppress(OSError, ValueError, KeyError):  # half written by a process that was killed
            told = json.loads(note.read_text(encoding="utf-8"))
            file = home / f"{told['sha256']}{ENDING}"
            if told["repository"] == repository and file.is_file():
                return Found(name, str(told["source"]), file, dict(told["cfg"]), repository)
    return None


def cfg_of(repository: str, backbone: str) -> dict[str, Any]:
    """What timm knows of its own weights by their name, or else of their network; a licence of the first only."""
    import timm  # noqa: PLC0415 - two seconds

    organization, _, name = repository.rpartition("/")
    if organization == "timm":
        with suppress(RuntimeError):  # an unknown tag
            if cfg := timm.get_pretrained_cfg(name):
                return dataclasses.asdict(cfg)
    cfg = timm.get_pretrained_cfg(network_of(backbone))
    assert cfg is not None, "refuse_foreign knows the network"
    return dataclasses.asdict(cfg) | {"license": None}


def told_by(config: Path | None) -> dict[str, Any]:
    """What a config.json of the hub says of the weights beside it."""
    if config is None or not config.is_file():
        return {}
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{config}: cannot be read ({reason_of(error)})"
        raise ConfigError(msg) from error
    cfg = told.get("pretrained_cfg") if isinstance(told, Mapping) else None
    if not isinstance(cfg, Mapping):
        return {}
    known = {key: cfg[key] for key in _Told.model_fields if cfg.get(key) is not None}
    try:
        return _Told.model_validate(known).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        msg = f"{config}: pretrained_cfg.{first['loc'][0]}: {first['msg']}"
        raise ConfigError(msg) from error


def refuse_broken(file: Path) -> None:
    """Raise ConfigError where it is no safetensors file, or a part of one."""
    try:
        with safe_open(file, framework="pt"):
            return
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{file}: not a whole {ENDING} file ({reason_of(error)}); fetch it again"
        raise ConfigError(msg) from error


def kept_fields() -> list[str]:
    """What is kept of weights beside their file, in timm's words."""
    return list(_Told.model_fields)
