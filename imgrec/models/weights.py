"""Weights that somebody else has trained, as one safe file that every node sees."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imgrec.errors import ConfigError
from imgrec.machine import sync

# How a licence says that money may not be made with it.
NONCOMMERCIAL = ("-nc", "noncommercial", "non-commercial", "apple-amlr", "seer", "research")


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that a network begins with, and what they were trained on.

    Attributes:
        name: Of the network and its weights: `resnet18.a1_in1k`.
        source: Where they are from, for people.
        licence: As their source states it; empty where it does not.
        sha256: Of the file.
        file: In safetensors, with timm's names, or of a registered model with ours.
        input_size: Height and width of the pictures that they were trained on.
        crop_ratio: Share of a picture's sides that the centre crop of evaluation has.
        interpolation: How pictures were resized.
        mean: Of each channel, taken off pictures in [0, 1].
        std: Of each channel, which they are then divided by.
        began_with: Of a registered model: what is told of the weights that it began with itself, if any.
    """

    name: str
    source: str
    licence: str
    sha256: str
    file: Path
    input_size: tuple[int, int]
    crop_ratio: float
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    began_with: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        """For people."""
        licence = self.licence or "a licence that is not stated"
        return f"{self.name} ({self.source}, {licence})"

    @property
    def to_be_fetched(self) -> bool:
        """Whether they are not on this machine yet, and somebody only plans."""
        return not self.sha256

    def told(self) -> dict[str, Any]:
        """What is kept of them on cards and in the record."""
        told: dict[str, Any] = {
            "name": self.name,
            "source": self.source,
            "licence": self.licence,
            "sha256": self.sha256,
        }
        return told | ({"began_with": dict(self.began_with)} if self.began_with else {})

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


def hash_of(file: Path) -> str:
    """The SHA-256 of what is in a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def keep(home: Path, write: Callable[[Path], object]) -> str:
    """Keep a file by its hash, whole or not at all.

    Args:
        home: The folder; whoever calls holds its lock.
        write: Writes the file to a path.

    Returns:
        Its SHA-256, which is its name.
    """
    part = home / "weights.part"
    write(part)
    sha256 = hash_of(part)
    sync(part)
    part.replace(home / f"{sha256}.safetensors")
    return sha256


def refuse_noncommercial(licence: str, name: str, where: str) -> None:
    """Raise ConfigError where a licence says that money may not be made with the weights of this name."""
    if any(word in licence for word in NONCOMMERCIAL):
        msg = (
            f"{where}: the licence of {name}, {licence}, does not allow commercial use; choose others, or "
            f"set pretrained.allow_noncommercial = true"
        )
        raise ConfigError(msg)
