"""Where pictures come from: a source is a list of samples, each with its class and split.

A sample's content is a path while the picture is a file, so that it is read where it is decoded.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from imgrec.errors import DataError

Split = Literal["train", "val", "test"]
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
# What desktops leave behind in folders; never a picture.
CLUTTER = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture before it is read.

    Attributes:
        id: Unique name within the source; for files the path below the source's folder.
        content: A file, or an array (H, W) or (H, W, 3) uint8.
        label: Name of its class.
        split: Where the source wants it, or None.
    """

    id: str
    content: Path | npt.NDArray[np.uint8]
    label: str
    split: Split | None = None


def list_samples(source: str) -> list[Sample]:
    """All samples of a source, sorted by id.

    Args:
        source: `digits`, or the path of a folder of class folders.

    Raises:
        DataError: there is no such folder, or it does not hold classes of files.
    """
    if source == "digits":
        return _digits()
    refuse_missing(source)
    try:
        found = list(_folder(Path(source).expanduser().absolute()))
    except OSError as error:
        msg = f"{error.filename}: {error.strerror}"
        raise DataError(msg) from error
    samples = sorted(found, key=lambda sample: sample.id)
    _refuse_useless(source, samples)
    return samples


def _digits() -> list[Sample]:
    """The 1,797 handwritten digits of 8x8 pixels and 17 levels that scikit-learn carries.

    Source: Alpaydin & Kaynak 1998, UCI Optical Recognition of Handwritten Digits, test part.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second to import

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return [
        Sample(id=f"{index:04d}", content=image, label=str(label))
        for index, (image, label) in enumerate(zip(images, digits.target, strict=True))
    ]


def refuse_missing(source: str) -> None:
    """Stop at once where the source is not there, before anything heavy is even imported.

    Raises:
        DataError: a folder that does not exist, or is a file.
    """
    folder = Path(source).expanduser().absolute()
    try:
        if source == "digits" or folder.is_dir():
            return
        what = "a file; give the folder that holds the class folders"
        msg = f"{folder}: {what if folder.exists() else 'no such folder'}"
    except OSError as error:
        msg = f"{folder}: {error.strerror}"
    raise DataError(msg)


def _folder(folder: Path) -> Iterator[Sample]:
    children = _subfolders(folder)
    if not children:
        msg = f"{folder}: no class folder in it; put the pictures of each class in one of its own"
        raise DataError(msg)
    # A class may be called "train" (the railway): split folders hold nothing but class folders.
    splits = {child: SPLIT_FOLDERS.get(child.name.lower()) for child in children}
    splits = {child: split for child, split in splits.items() if split and _subfolders(child)}
    if "train" in splits.values():
        if strangers := [child.name for child in children if child not in splits]:
            msg = (
                f"{folder}: {strangers[0]} beside train is neither val nor test; rename or move it"
            )
            raise DataError(msg)
        for child, split in splits.items():
            for class_folder in _subfolders(child):
                yield from _class_samples(folder, class_folder, split)
    elif len(splits) == len(children):
        msg = f"{folder}: has {', '.join(child.name for child in children)} but no train folder"
        raise DataError(msg)
    else:
        for class_folder in children:
            yield from _class_samples(folder, class_folder, None)


def _class_samples(root: Path, class_folder: Path, split: Split | None) -> Iterator[Sample]:
    try:
        class_folder.name.encode()
    except UnicodeEncodeError:
        msg = f"{str(class_folder)!a}: the name of a class must be text in UTF-8; rename it"
        raise DataError(msg) from None
    empty = True
    for path in _files_below(class_folder):
        empty = False
        yield Sample(path.relative_to(root).as_posix(), path, class_folder.name, split)
    if empty:
        msg = f"{class_folder}: no file in it; add pictures or remove the folder"
        raise DataError(msg)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file at any depth; links are followed, but no folder is entered twice."""
    entered: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower() not in CLUTTER:
                yield Path(parent, name)


def _refuse_useless(source: str, samples: list[Sample]) -> None:
    classes = {sample.label for sample in samples}
    if len(classes) == 1:
        msg = f"{source}: only one class ({classes.pop()}); to tell apart takes at least two"
        raise DataError(msg)
    trained = {sample.label for sample in samples if sample.split in {None, "train"}}
    if strangers := sorted(classes - trained):
        split = next(s.split for s in samples if s.label == strangers[0])
        msg = f"{source}: {split} has classes that train has not: {', '.join(strangers[:5])}"
        raise DataError(msg)
