"""A folder of class folders, with or without train/, val/ and test/ above them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgrec.data.sources.sample import SPLIT_NAMES, File, Sample, Split
from imgrec.errors import DataError

# What desktops leave behind in folders; never a picture.
CLUTTER = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Folder:
    """A folder on this machine, or on a disk that all machines see."""

    path: Path

    def __iter__(self) -> Iterator[Sample]:
        """Every file below a class folder, sorted by path."""
        try:
            found = list(_folder(self.path))
        except OSError as error:
            msg = f"{error.filename}: {error.strerror}"
            raise DataError(msg) from error
        return iter(sorted(found, key=lambda sample: sample.id))

    def state(self) -> Any:
        """Names, sizes and times of all files: a million in seconds, where reading takes hours."""
        return [file_state(path, name=os.path.relpath(path, self.path)) for path in self._files()]

    def _files(self) -> Iterator[Path]:
        for child in subfolders(self.path):
            yield from files_below(child)


def file_state(path: Path, name: str) -> list[Any]:
    """Name, size, time and kind of a file."""
    try:
        found = path.stat()
    except OSError as error:
        return [name, str(error.strerror)]
    return [name, found.st_size, found.st_mtime_ns, found.st_mode]


def _folder(folder: Path) -> Iterator[Sample]:
    children = subfolders(folder)
    if not children:
        msg = f"{folder}: no class folder in it; put the pictures of each class in one of its own"
        raise DataError(msg)
    # A class may be called "train" (the railway): split folders hold nothing but class folders.
    splits = {child: SPLIT_NAMES.get(child.name.lower()) for child in children}
    splits = {child: split for child, split in splits.items() if split and subfolders(child)}
    if "train" in splits.values():
        if strangers := [child.name for child in children if child not in splits]:
            msg = (
                f"{folder}: {strangers[0]} beside train is neither val nor test; rename or move it"
            )
            raise DataError(msg)
        for child, split in splits.items():
            for class_folder in subfolders(child):
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
    for path in files_below(class_folder):
        empty = False
        yield Sample(path.relative_to(root).as_posix(), File(path), class_folder.name, split)
    if empty:
        msg = f"{class_folder}: no file in it; add pictures or remove the folder"
        raise DataError(msg)


def subfolders(folder: Path) -> list[Path]:
    """Those that are not hidden, sorted."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def files_below(folder: Path) -> Iterator[Path]:
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
