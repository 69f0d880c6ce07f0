"""A folder of class folders, with or without train/, val/ and test/ above them."""

import mimetypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from imgrec.data.content import Missing
from imgrec.data.sources.sample import SPLIT_NAMES, File, Sample, Split
from imgrec.errors import DataError

# What desktops leave behind in folders; never a picture.
CLUTTER = frozenset({"thumbs.db", "desktop.ini"})
STRAY = Missing("lies in no class folder")
FoundFile = tuple[str, list[Any]]
"""A path, and the size, time and kind of what is there."""


@dataclass(frozen=True)
class Folder:
    """A folder on this machine, or on a disk that all machines see."""

    path: Path

    def __iter__(self) -> Iterator[Sample]:
        """Every file below a class folder, sorted by path; then pictures that lie beside them."""
        root = len(str(self.path)) + 1
        for class_folder, split, files in self._classes:
            for path, _ in files:
                yield Sample(path[root:], File(path), class_folder.name, split)
        for path in self._strays:
            yield Sample(path[root:], STRAY, "")

    def state(self) -> Any:
        """Names, sizes and times of all files: a million in seconds, where reading takes hours."""
        root = len(str(self.path)) + 1
        files = [[path[root:], *state] for _, _, files in self._classes for path, state in files]
        return files + [[path[root:]] for path in self._strays]

    @cached_property
    def _classes(self) -> list[tuple[Path, Split | None, list[FoundFile]]]:
        try:
            return [
                (class_folder, split, _class_files(class_folder))
                for class_folder, split in _class_folders(self.path)
            ]
        except OSError as error:
            msg = f"{error.filename}: {error.strerror}"
            raise DataError(msg) from error

    @cached_property
    def _strays(self) -> list[str]:
        """Pictures, by their names, that lie where only class folders should."""
        above = sorted({class_folder.parent for class_folder, _, _ in self._classes} | {self.path})
        return [
            str(file)
            for folder in above
            for file in sorted(folder.iterdir())
            if looks_like_picture(file.name) and file.is_file()
        ]


def looks_like_picture(name: str) -> bool:
    """Whether a name ends as those of pictures do; other files beside class folders are left alone."""
    kind, _ = mimetypes.guess_type(name)
    return kind is not None and kind.startswith("image/") and not name.startswith(".")


def file_state(path: Path, name: str) -> list[Any]:
    """Name, size, time and kind of a file."""
    try:
        status = path.stat()
    except OSError as error:
        return [name, str(error.strerror)]
    return [name, status.st_size, status.st_mtime_ns, status.st_mode]


def _class_folders(folder: Path) -> Iterator[tuple[Path, Split | None]]:
    """The class folders in a folder, each with its split, sorted by path."""
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
                yield class_folder, split
    elif len(splits) == len(children):
        msg = f"{folder}: has {', '.join(child.name for child in children)} but no train folder"
        raise DataError(msg)
    else:
        for class_folder in children:
            yield class_folder, None


def _class_files(class_folder: Path) -> list[FoundFile]:
    try:
        class_folder.name.encode()
    except UnicodeEncodeError:
        msg = f"{str(class_folder)!a}: the name of a class must be text in UTF-8; rename it"
        raise DataError(msg) from None
    files = sorted(_files_below(str(class_folder), set()))
    if not files:
        msg = f"{class_folder}: no file in it; add pictures or remove the folder"
        raise DataError(msg)
    return files


def subfolders(folder: Path) -> list[Path]:
    """Those that are not hidden, sorted."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files_below(folder: str, entered: set[str]) -> Iterator[FoundFile]:
    """Every file at any depth; links are followed, but no folder is entered twice."""
    real = os.path.realpath(folder)
    if real in entered:
        return
    entered.add(real)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in CLUTTER:
                continue
            if entry.is_dir():
                yield from _files_below(entry.path, entered)
            else:
                yield entry.path, _state_of(entry)


def _state_of(entry: os.DirEntry[str]) -> list[Any]:
    try:
        status = entry.stat()
    except OSError as error:
        return [str(error.strerror)]
    return [status.st_size, status.st_mtime_ns, status.st_mode]
