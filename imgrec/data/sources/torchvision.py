"""Any classification data set of torchvision, by its name; downloaded by its own class."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgrec.data.sources.reading import Reading
from imgrec.data.sources.sample import SPLIT_NAMES, Named, Sample, Split
from imgrec.errors import DataError, DecodeError, reason_of

PREFIX = "torchvision:"


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a data set."""

    name: str
    root: Path
    part: str
    index: int

    def read(self) -> npt.NDArray[np.uint8]:
        """Its pixels."""
        try:
            image = _dataset(self.name, self.root, self.part, download=False)[self.index][0]
        except (OSError, RuntimeError) as error:
            msg = f"cannot be read: {reason_of(error)}"
            raise DecodeError(msg) from error
        return np.asarray(image if image.mode == "L" else image.convert("RGB"))


@dataclass(frozen=True)
class Torchvision:
    """`torchvision:FashionMNIST` and the like.

    Attributes:
        name: Of a class in torchvision.datasets.
        root: Where it downloads to.
    """

    name: str
    root: Path

    def __iter__(self) -> Iterator[Sample]:
        """Part by part, in the data set's order."""
        for part, split in self._parts():
            dataset = self._downloaded(part)
            names = [str(name) for name in getattr(dataset, "classes", [])]
            for index, target in enumerate(_targets(dataset)):
                label = names[target] if names else str(target)
                item = Item(self.name, self.root, part, index)
                yield Sample(f"{part or 'all'}/{index:06d}", item, label, split)

    def pictures(self) -> Iterator[Named]:
        """All of them."""
        return ((sample.id, sample.content) for sample in self)

    def state(self) -> Any:
        """Published data sets do not change under their name."""
        return [PREFIX, self.name]

    def reading(self) -> Reading:
        """What was taken for what."""
        splits: dict[str, str] = {split: part for part, split in self._parts() if split}
        return Reading(f"torchvision's {self.name}", "what it says", splits)

    def _parts(self) -> list[tuple[str, Split | None]]:
        """The values of `train` or `split` that its class knows, each with our split."""
        parameters = inspect.signature(_class(self.name)).parameters
        if "train" in parameters:
            return [("train", "train"), ("test", "test")]
        if "split" not in parameters:
            return [("", None)]
        part_of: dict[Split, str] = {}
        for part in SPLIT_NAMES:
            if SPLIT_NAMES[part] not in part_of and self._has(part):
                part_of[SPLIT_NAMES[part]] = part
        if "train" not in part_of and self._has("trainval"):
            part_of["train"] = "trainval"
            part_of.pop("val", None)  # it is in there
        if "train" not in part_of:
            msg = f"{PREFIX}{self.name}: has no split called train; save what you want as a folder"
            raise DataError(msg)
        return [(part, split) for split, part in part_of.items()]

    def _has(self, part: str) -> bool:
        try:
            _dataset(self.name, self.root, part, download=False)
        except ValueError:  # torchvision's answer to an unknown split
            return False
        except (OSError, RuntimeError):  # known, and not downloaded yet
            return True
        return True

    def _downloaded(self, part: str) -> Any:
        try:
            return _dataset(self.name, self.root, part, download=True)
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            msg = (
                f"{PREFIX}{self.name}: cannot be downloaded ({reason_of(error)}); "
                f"try again with a network, or put its files below {self.root}"
            )
            raise DataError(msg) from error


def _class(name: str) -> Any:
    from torchvision import datasets  # noqa: PLC0415 - takes seconds, for this source alone

    known = [n for n in datasets.__all__ if inspect.isclass(getattr(datasets, n))]
    if name not in known:
        msg = f"{PREFIX}{name}: torchvision has no such data set; it has {', '.join(known)}"
        raise DataError(msg)
    return getattr(datasets, name)


@lru_cache(maxsize=4)
def _dataset(name: str, root: Path, part: str, *, download: bool) -> Any:
    made_by = _class(name)
    parameters = inspect.signature(made_by).parameters
    settings: dict[str, Any] = {}
    if "root" in parameters:
        settings["root"] = str(root)
    if "train" in parameters:
        settings["train"] = part == "train"
    elif "split" in parameters:
        settings["split"] = part
    if "download" in parameters:
        settings["download"] = download
    try:
        return made_by(**settings)
    except TypeError as error:
        msg = f"{PREFIX}{name}: needs more than its name ({error}); save it as a folder"
        raise DataError(msg) from error


def _targets(dataset: Any) -> list[int]:
    """Class numbers; from the list that most data sets hold, else by looking at every picture."""
    for name in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, name, None)
        if values is not None and len(values) == len(dataset):
            return [int(value) for value in values]
    return [int(dataset[index][1]) for index in range(len(dataset))]
