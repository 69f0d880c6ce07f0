"""What is in an archive: its pictures where they lie, and the labels beside them."""

import json
import lzma
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from imgrec.data.content import MOST_BYTES, Content, Missing, Part, refuse_huge
from imgrec.data.sources.clutter import clutter_in
from imgrec.data.sources.sample import SPLIT_NAMES
from imgrec.errors import DataError, DecodeError

END_BYTES = 1024
LABEL_BYTES = 1 << 20
# Beside pictures, not pictures: labels, and captions.
BESIDE = frozenset({".cls", ".json", ".txt"})
ENCRYPTED = 1
"""The flag of a member of a zip that needs a password."""
# What zipfile raises for members that are damaged, or packed in a way that it does not know.
BROKEN = (
    OSError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
IN_UTF_8 = 0x800
"""The flag of a member of a zip whose name is in UTF-8; others are in the encoding of whoever packed it."""
NO_FILE = Missing("not a file of its own but a link or a device")
Read = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Label:
    """What a file beside a picture says of it; `problem` if it cannot be read."""

    text: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        name: With slashes.
        content: Where it lies.
        size: Bytes.
        read: Reads it now; None of what is no file of its own.
    """

    name: PurePosixPath
    content: Content
    size: int
    read: Read | None


@dataclass
class Contents:
    """What an archive holds: where its pictures are, and the labels of its keys."""

    pictures: dict[PurePosixPath, Content] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    label_files: dict[tuple[str, str], PurePosixPath] = field(default_factory=dict)
    clutter: set[str] = field(default_factory=set)


def contents_of(path: Path, ending: str) -> Contents:
    """Where the pictures of an archive are, and the labels of its keys.

    Raises:
        DataError: it is broken, or two files say what one sample is.
    """
    held = Contents()
    kind = "zip" if path.suffix == ".zip" else "tar"
    try:
        for member in _members_of_zip(path) if kind == "zip" else _members_of_tar(path):
            if clutter := clutter_in(member.name.parts):
                held.clutter.add(clutter)
            elif member.name.suffix.lower() in BESIDE:
                label = _label(member)
                if label:
                    _refuse_second_label(path, member, held)
                # .cls decides, whichever comes first.
                if label and (
                    member.name.suffix == ".cls" or key_of(member.name) not in held.labels
                ):
                    held.labels[key_of(member.name)] = label
            elif not ending or _ending(member.name) == ending:
                held.pictures[member.name] = member.content
    except (OSError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"{path}: cannot be read as {kind} ({reason}); copy or pack it again"
        raise DataError(msg) from error
    return held


def contents_of_some(
    _start: int, paths: Sequence[Path | Missing], ending: str
) -> list[Contents | Missing]:
    """The same of several, in a process of its own; one that broke such a process comes back as it is."""
    return [path if isinstance(path, Missing) else contents_of(path, ending) for path in paths]


def _refuse_second_label(path: Path, member: Member, held: Contents) -> None:
    """Raise DataError where two files of the same kind say what one sample is."""
    before = held.label_files.setdefault((key_of(member.name), member.name.suffix), member.name)
    if before != member.name:
        msg = (
            f"{path}: {before} and {member.name} belong to one sample, {key_of(member.name)}, for in WebDataset a name "
            f"ends at its first dot; rename them without the other dots"
        )
        raise DataError(msg)


def refuse_shared_labels(path: Path, held: Contents) -> None:
    """Raise DataError where several pictures have one label between them: which of them is meant, a person says."""
    first: dict[str, PurePosixPath] = {}
    for name in held.pictures:
        if key_of(name) not in held.labels:
            continue
        before = first.setdefault(key_of(name), name)
        if before != name:
            endings = f"{_ending(before)} and {_ending(name)}"
            msg = (
                f"{path}: sample {key_of(name)} has several pictures ({endings}); name those that are meant by their "
                f"ending: data.image_ending = {_ending(before)!r}"
            )
            raise DataError(msg)


def _members_of_tar(path: Path) -> Iterator[Member]:
    _refuse_truncated(path)
    # r: and not r:*, for parts of a compressed file cannot be read by themselves.
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if member.isdir():
                continue
            if not member.isreg():
                yield Member(name, NO_FILE, 0, None)
                continue
            part = Part(path, member.offset_data, member.size)
            yield Member(name, part, member.size, partial(_read_from, tar, member))


def _read_from(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _members_of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    names = _names_in(members)
    for member, text in zip(members, names, strict=True):
        name = PurePosixPath(text)
        mode = member.external_attr >> 16
        if member.flag_bits & ENCRYPTED:
            yield Member(name, Missing("needs a password"), 0, None)
        elif mode and stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
            yield Member(name, NO_FILE, 0, None)
        else:
            there = ZipMember(path, member.filename, member.file_size)
            yield Member(name, there, member.file_size, there.read)


def _names_in(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """What the members are called, as whoever packed them wrote it: Windows in China writes GBK, and some backslashes."""
    foreign = [
        m.filename for m in members if not m.filename.isascii() and not m.flag_bits & IN_UTF_8
    ]
    encoding = next((one for one in ("utf-8", "gb18030") if _are_all_in(foreign, one)), "cp437")
    known = {name: name.encode("cp437").decode(encoding) for name in foreign}
    names = [known.get(m.filename, m.filename) for m in members]
    if not any("/" in name for name in names):
        names = [name.replace("\\", "/") for name in names]
    return names


def _are_all_in(names: Sequence[str], encoding: str) -> bool:
    """Whether names that zipfile took for cp437 are text in this encoding; of GBK, Chinese text."""
    try:
        texts = [name.encode("cp437").decode(encoding) for name in names]
    except UnicodeError:
        return False
    if encoding != "gb18030":
        return True
    letters = {letter for text in texts for letter in text if not letter.isascii()}
    return all(unicodedata.name(letter, "").startswith("CJK") for letter in letters)


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file in a zip, which may be compressed."""

    path: Path
    name: str
    size: int

    def read(self) -> bytes:
        """Its bytes; never more than the zip says it has."""
        refuse_huge(self.size)
        try:
            with _opened_zip(self.path, os.getpid()).open(self.name) as file:
                content = file.read(MOST_BYTES + 1)
        except BROKEN as error:
            msg = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            raise DecodeError(msg) from error
        refuse_huge(len(content))
        return content


@lru_cache(maxsize=2)
def _opened_zip(path: Path, process: int) -> zipfile.ZipFile:  # noqa: ARG001 - each has a place in the file of its own
    """The zip, its list of members read once in every process."""
    return zipfile.ZipFile(path)


def _refuse_truncated(path: Path) -> None:
    """A tar ends with two empty blocks; cut off between two members it would look whole."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        if file.read().strip(b"\0") or path.stat().st_size < END_BYTES:
            msg = f"{path}: ends in the middle; copy or pack it again"
            raise DataError(msg)


def key_of(name: PurePosixPath) -> str:
    """WebDataset: what belongs together has the same name up to the first dot."""
    path = str(name)
    dot = path.find(".", path.rfind("/") + 1)
    return path if dot < 0 else path[:dot]


def split_folder(name: PurePosixPath) -> str:
    """The folder on the way to a file that is called as a split is; empty where none is."""
    return next((part.lower() for part in name.parts[:-1] if part.lower() in SPLIT_NAMES), "")


def _ending(name: PurePosixPath) -> str:
    return name.name.partition(".")[2]


def _label(member: Member) -> Label | None:
    ending = member.name.suffix.lower()
    if ending == ".txt" or member.read is None:
        return None
    if member.size > LABEL_BYTES:
        return Label("", f"its {ending} file has more than {LABEL_BYTES >> 20} MiB")
    try:
        text = member.read().decode("utf-8").strip()
        if ending == ".json":
            noted = json.loads(text)
            value = noted.get("label", noted.get("class")) if isinstance(noted, dict) else None
            text = "" if value is None else str(value)
    except (ValueError, RecursionError, DecodeError):
        return Label("", f"its {ending} file cannot be read")
    return Label(text) if text else None
