"""Tar files of pictures: WebDataset shards, or a packed folder of class folders."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from imgrec.data.sources.folder import file_state
from imgrec.data.sources.parquet import split_of_file
from imgrec.data.sources.sample import SPLIT_NAMES, Missing, Part, Sample, Split
from imgrec.errors import DataError

LABEL_BYTES = 10_000
BESIDE = frozenset({"cls", "json", "txt"})


@dataclass
class _Group:
    """What belongs together in a shard: files whose names differ in their endings only."""

    image: Part | None = None
    label: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class Shards:
    """Tar files, each with pictures and their labels.

    The label of `cat/7.jpg` is what `cat/7.cls` holds, or `label` (or `class`) in `cat/7.json`, or
    else the name of its folder. Nothing is unpacked: pictures are read where they lie.

    Attributes:
        paths: The files. Of several those called `train-...`, or in a folder `train`, are the split train.
    """

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[Sample]:
        """File by file, in the members' order."""
        for path in self.paths:
            # One file holds everything, whatever it is called.
            split = split_of_file(path) if len(self.paths) > 1 else None
            try:
                groups = _groups(path)
            except (OSError, tarfile.TarError) as error:
                msg = f"{path}: {getattr(error, 'strerror', None) or error}"
                raise DataError(msg) from error
            for key, group in groups.items():
                yield from _sample(path, key, group, split)

    def state(self) -> Any:
        """Of the files."""
        return [file_state(path, path.name) for path in self.paths]


def _sample(path: Path, key: str, group: _Group, split: Split | None) -> Iterator[Sample]:
    if group.image is None:
        return
    folders = PurePosixPath(key).parent.parts
    if len(folders) > 1 and folders[-2].lower() in SPLIT_NAMES:
        split = SPLIT_NAMES[folders[-2].lower()]
    label = group.label if group.label is not None else (folders[-1] if folders else "")
    problem = group.problem or ("" if label else "neither .cls, .json nor a folder gives a label")
    content = Missing(problem) if problem else group.image
    yield Sample(f"{path.name}:{key}", content, label, split)


def _groups(path: Path) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    # r: and not r:*, for parts of a compressed file cannot be read by themselves.
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if not member.isfile() or name.name.startswith("."):
                continue
            # WebDataset: the key ends at the first dot of the file's name.
            stem, _, ending = name.name.partition(".")
            group = groups.setdefault(str(name.parent / stem), _Group())
            if ending.lower() in BESIDE:
                _read_label(tar, member, ending.lower(), group)
            elif group.image is None:
                group.image = Part(path, member.offset_data, member.size)
    return groups


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str, group: _Group) -> None:
    if ending == "txt":  # a caption
        return
    file = tar.extractfile(member)
    assert file is not None
    try:
        text = file.read(LABEL_BYTES).decode("utf-8").strip()
        if ending == "json":
            noted = json.loads(text)
            value = noted.get("label", noted.get("class")) if isinstance(noted, dict) else None
            text = "" if value is None else str(value)
    except ValueError:
        group.problem = f"its .{ending} file cannot be read"
        return
    if text:
        group.label = text
