"""Tar files of pictures: WebDataset shards, or a packed folder of class folders."""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from imgrec.data.content import Content, Missing
from imgrec.data.sources.folder import CLUTTER, file_state
from imgrec.data.sources.layout import labels_and_splits
from imgrec.data.sources.parquet import split_of_file
from imgrec.data.sources.sample import Part, Sample
from imgrec.errors import DataError

END_BYTES = 1024
LABEL_BYTES = 1 << 20
# Beside pictures, not pictures: labels, and captions.
BESIDE = frozenset({".cls", ".json", ".txt"})


@dataclass(frozen=True, slots=True)
class Label:
    """What a file beside a picture says of it; `problem` if it cannot be read."""

    text: str
    problem: str = ""


@dataclass(frozen=True)
class Shards:
    """Tar files, each with pictures and their labels.

    The label of `a/7.jpg` is what `a/7.cls` holds, or else `label` (or `class`) in `a/7.json`; where
    there is neither, its folder says class and split. Nothing is unpacked: pictures are read where
    they lie.

    Attributes:
        paths: The files. Of several those called `train-...`, or in a folder `train`, are the split
            train.
    """

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[Sample]:
        """File by file, in the members' order."""
        root = os.path.commonpath([path.parent for path in self.paths])
        for path in self.paths:
            # One file holds everything, whatever it is called.
            split = split_of_file(path) if len(self.paths) > 1 else None
            name = path.relative_to(root).as_posix()
            pictures, labels = _members(path)
            if not pictures:
                continue
            folders = labels_and_splits(list(pictures), str(path))
            for (member, content), (folder, own) in zip(pictures.items(), folders, strict=True):
                label = labels.get(_key(member), Label(folder))
                if label.problem:
                    content = Missing(label.problem)  # noqa: PLW2901 - what there is of it
                yield Sample(f"{name}:{member}", content, label.text, own or split)

    def state(self) -> Any:
        """Of the files."""
        return [file_state(path, str(path)) for path in self.paths]


def _members(path: Path) -> tuple[dict[PurePosixPath, Content], dict[PurePosixPath, Label]]:
    """Where the pictures of a tar are, and the labels of its keys."""
    pictures: dict[PurePosixPath, Content] = {}
    labels: dict[PurePosixPath, Label] = {}
    try:
        _refuse_truncated(path)
        # r: and not r:*, for parts of a compressed file cannot be read by themselves.
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if member.isdir() or name.name.startswith(".") or name.name.lower() in CLUTTER:
                    continue
                if name.suffix.lower() in BESIDE:
                    label = _label(tar, member)
                    # .cls decides, whichever comes first.
                    if label and (name.suffix == ".cls" or _key(name) not in labels):
                        labels[_key(name)] = label
                elif member.isreg():
                    pictures[name] = Part(path, member.offset_data, member.size)
                else:
                    pictures[name] = Missing("not a file of its own but a link or a device")
    except (OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"{path}: cannot be read as tar ({reason}); copy or pack it again"
        raise DataError(msg) from error
    return pictures, labels


def _refuse_truncated(path: Path) -> None:
    """A tar ends with two empty blocks; cut off between two members it would look whole."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        if file.read().strip(b"\0") or path.stat().st_size < END_BYTES:
            msg = f"{path}: ends in the middle; copy or pack it again"
            raise DataError(msg)


def _key(name: PurePosixPath) -> PurePosixPath:
    """WebDataset: what belongs together has the same name up to the first dot."""
    return name.parent / name.name.partition(".")[0]


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Label | None:
    ending = PurePosixPath(member.name).suffix.lower()
    if ending == ".txt" or not member.isreg():
        return None
    if member.size > LABEL_BYTES:
        return Label("", f"its {ending} file has more than {LABEL_BYTES >> 20} MiB")
    file = tar.extractfile(member)
    assert file is not None
    try:
        text = file.read().decode("utf-8").strip()
        if ending == ".json":
            noted = json.loads(text)
            value = noted.get("label", noted.get("class")) if isinstance(noted, dict) else None
            text = "" if value is None else str(value)
    except (ValueError, RecursionError):
        return Label("", f"its {ending} file cannot be read")
    return Label(text) if text else None
