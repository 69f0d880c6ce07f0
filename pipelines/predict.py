"""Answers to any number of pictures, in a file: part by part, so that a kill costs no more than one part."""

import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from imgrec.classifier import Classifier
from imgrec.config import DataConfig
from imgrec.data.content import (
    MOST_BYTES,
    Content,
    File,
    InMemoryFile,
    InMemoryPixels,
    Missing,
)
from imgrec.data.sources import FILES, NAMED, open_pictures
from imgrec.data.sources.folder import Folder
from imgrec.data.sources.manifest import Manifest
from imgrec.data.sources.node import looks_like_picture
from imgrec.data.sources.sample import Named, Remote, Source
from imgrec.data.sources.web import checked
from imgrec.errors import ConfigError, DataError, DecodeError
from pipelines.answers import SCHEMA, WRITERS, row_of

PART = 2048
"""Pictures of a part: some seconds of work."""
TOLD_EVERY = 64
PARTS = ".parts"
KEY = "key.json"
Parts = Mapping[int, Sequence[Named]]
"""Some of the pictures, by the place of their first."""
Advance = Callable[[int], None]
Answer = Callable[[Parts, Advance], Iterator[tuple[int, pa.Table]]]
"""Answers parts in any order, and tells how many more pictures are answered."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was done.

    Attributes:
        pictures: All of them.
        unread: Those without an answer.
        first_unread: Name and reason of the first of these, if any.
        taken: Pictures that an earlier command had answered.
    """

    pictures: int
    unread: int
    first_unread: tuple[str, str] | None
    taken: int


def list_pictures(names: Sequence[str], config: DataConfig, downloads: Path) -> list[Named]:
    """The pictures that some names stand for.

    Args:
        names: Files, folders of any depth, patterns, `-` for a picture on standard input, or whatever a data source may be:
            tables, archives, URLs. Nothing need say what they show.
        config: How tables and archives are read: columns, hosts, endings.
        downloads: Where to put what is fetched or unpacked.

    Raises:
        DataError: none of them is there.
    """
    several = len(names) > 1
    named = [
        (
            f"{name}: {called}" if several and _is_source(name) and called != name else called,
            content,
        )
        for name in names
        for called, content in _pictures(name, config, downloads)
    ]
    if all(isinstance(content, Missing) for _, content in named):
        msg = f"{' '.join(names)}: no picture there"
        raise DataError(msg)
    return named


def refuse_ending(out: Path) -> None:
    """Before any work.

    Raises:
        ConfigError: the file is of no kind that is written, or its folder is not there.
    """
    if out.suffix.lower() not in WRITERS:
        msg = f"--out {out}: the file's ending says its kind; write one of {', '.join(WRITERS)}"
        raise ConfigError(msg)
    folder = out.absolute().parent
    if not folder.is_dir():
        msg = f"--out {out}: there is no folder {folder}"
        raise ConfigError(msg)
    if out.is_dir() or not os.access(folder, os.W_OK):
        msg = f"--out {out}: no file can be written there; choose another"
        raise ConfigError(msg)


def predict_into(
    out: Path,
    answer: Answer,
    pictures: Sequence[Named],
    *,
    about: Mapping[str, Any],
    progress: Advance,
) -> Predicted:
    """Answer all pictures, and write the answers into a file in their order.

    Parts that an earlier command has written for the same pictures and the same model are taken as they are. The file
    itself appears when it is complete.

    Args:
        out: The file; its ending says what it is.
        answer: Answers parts: `Here`, or `Everywhere` (predict_on_cluster.py).
        pictures: All of them.
        about: What the answers depend on, beside the pictures: the model, priors, how many classes are written.
        progress: Told how many pictures are answered.
    """
    folder = out.with_name(out.name + PARTS)
    _keep_for(folder, {**about, "pictures": _digest(pictures), "part": PART})
    files = {start: folder / f"{start:012d}.parquet" for start in range(0, len(pictures), PART)}
    missing = {
        start: pictures[start : start + PART] for start, file in files.items() if not file.is_file()
    }
    answered = taken = len(pictures) - sum(map(len, missing.values()))

    def advance(more: int) -> None:
        nonlocal answered
        answered += more
        progress(answered)

    advance(0)
    for start, table in answer(missing, advance) if missing else ():
        with _whole(files[start]) as unfinished:
            pq.write_table(table, unfinished)
    unread, first = 0, None
    for file in files.values():
        for row in _unread_of(file):
            unread += 1
            first = first or (row["picture"], row["error"])
    _merge([*files.values()], out)
    shutil.rmtree(folder)
    return Predicted(len(pictures), unread, first, taken)


@dataclass(frozen=True, slots=True)
class Here:
    """Parts are answered in this process, one after the other.

    Attributes:
        classifier: That answers.
        top: How many of the most probable classes to write.
    """

    classifier: Classifier
    top: int

    def __call__(self, parts: Parts, advance: Advance) -> Iterator[tuple[int, pa.Table]]:
        """The answers to each part."""
        for start, pictures in parts.items():
            yield start, table_of(self.classifier, self.top, pictures, advance)


def _keep_for(parts: Path, key: Mapping[str, Any]) -> None:
    """An empty folder for parts, or that of an earlier command of the same key.

    Raises:
        ConfigError: there is a folder of somebody else's.
    """
    written = json.dumps(key, sort_keys=True)
    file = parts / KEY
    if file.is_file() and file.read_text(encoding="utf-8") == written:
        return
    if parts.exists():
        if not file.is_file():
            msg = f"{parts}: this is where parts of the answers go, and something else is there; choose another --out"
            raise ConfigError(msg)
        shutil.rmtree(parts)
    parts.mkdir()
    file.write_text(written, encoding="utf-8")


def _digest(pictures: Sequence[Named]) -> str:
    """Of their names and of where they are, in order; of files with size and time. To hash them would be to read all."""
    digest = hashlib.sha256()
    for name, content in pictures:
        told = f"{name}\0{_identity(content)}\0"
        digest.update(told.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _identity(content: Content) -> str:
    if isinstance(content, InMemoryFile):
        return hashlib.sha256(content.content).hexdigest()
    if isinstance(content, InMemoryPixels):
        return hashlib.sha256(content.array.tobytes()).hexdigest()
    if isinstance(content, File):
        try:
            status = Path(content.path).stat()
        except (OSError, ValueError):
            return content.path
        return f"{content.path} {status.st_size} {status.st_mtime_ns}"
    return repr(content)  # it says where: the path of the archive or table, and the place in it


def table_of(
    classifier: Classifier,
    top: int,
    pictures: Sequence[Named],
    advance: Advance = lambda _: None,
    *,
    decode_workers: int = 0,
) -> pa.Table:
    """The answers to some pictures, a row each."""
    rows = []
    answers = classifier.predict_each([content for _, content in pictures], decode_workers)
    for (name, _), answer in zip(pictures, answers, strict=True):
        rows.append(row_of(name, answer, top))
        if len(rows) % TOLD_EVERY == 0:
            advance(TOLD_EVERY)
    advance(len(rows) % TOLD_EVERY)
    return pa.Table.from_pylist(rows, SCHEMA)


def _unread_of(file: Path) -> list[dict[str, Any]]:
    table = pq.read_table(file, columns=["picture", "error"])
    return [row for row in table.to_pylist() if row["error"] is not None]


def _merge(parts: Sequence[Path], out: Path) -> None:
    with _whole(out) as unfinished, WRITERS[out.suffix.lower()](unfinished) as writer:
        for part in parts:
            writer.write(pq.read_table(part))


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A name to write under; the file has its own once all is on the disk."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    yield unfinished
    with unfinished.open("rb+") as written:
        os.fsync(written.fileno())
    unfinished.replace(file)


def _pictures(name: str, config: DataConfig, downloads: Path) -> list[Named]:
    """The pictures that a name stands for, and where their bytes are."""
    path = Path(name)
    if name == "-":
        found = [(name, _piped())]
    elif "://" in name and looks_like_picture(urlsplit(name).path.rpartition("/")[2]):
        found = [(name, _behind(name))]
    elif path.is_dir() or _is_source(name):
        source = open_pictures(config.model_copy(update={"source": name}), downloads)
        found = _in_folder(name, source) if path.is_dir() else list(source.pictures())
    elif not path.exists() and any(mark in name for mark in "*?["):
        files = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - of any depth, as a shell's
        found = [(file, File(file)) for file in files]
    else:
        found = [(name, File(name))]
    return found or [(name, Missing("no picture there"))]


def _in_folder(name: str, source: Source) -> list[Named]:
    """The pictures that lie in a folder, or in its archives or parquet.

    Raises:
        DataError: there are both.
    """
    below = Folder(Path(name).absolute()).pictures()
    files = [(str(Path(name, file)), content) for file, content in below]
    if isinstance(source, Folder | Manifest):  # a table names some of what lies there
        return files
    if files:
        msg = f"{name}: holds pictures, such as {files[0][0]}, beside archives or parquet; name those that are meant"
        raise DataError(msg)
    return list(source.pictures())


def _piped() -> Content:
    """What comes on standard input."""
    content = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        return Missing(f"more than {MOST_BYTES >> 20} MiB")
    return InMemoryFile(content)


def _behind(url: str) -> Content:
    """The picture behind an address that a person typed: it may lie anywhere."""
    try:
        return Remote(checked(url, None))
    except DecodeError as error:
        return Missing(str(error))


def _is_source(name: str) -> bool:
    head, colon, _ = name.partition(":")
    return "://" in name or head + colon in NAMED or name.lower().endswith(FILES)
