"""The same kinds of sources behind a URL that fsspec understands: s3://, gs://, https://, ..."""

import hashlib
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from imgrec.data.content import FETCHED_AT_ONCE
from imgrec.data.sources.clutter import is_clutter
from imgrec.data.sources.folder import STRAY
from imgrec.data.sources.node import Node, looks_like_picture, tree_of
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.sample import Named, Remote, Sample, filesystem_of
from imgrec.data.sources.tree import PLAIN, Layout, Rule, read_tree
from imgrec.data.sources.web import reason_for_people
from imgrec.errors import DataError


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of class folders; its files are fetched by the processes that decode them."""

    url: str
    allowed: frozenset[str] = frozenset()
    rule: Rule = PLAIN

    def __iter__(self) -> Iterator[Sample]:
        """Every file below a class folder, sorted by path; then pictures that lie beside them."""
        for one in self._layout.classes:
            for name, _ in one.files:
                path = one.path + name
                yield Sample(path, Remote(f"{self.url}/{path}", self.allowed), one.label, one.split)
        for path, _ in self._layout.strays:
            yield Sample(path, STRAY, "")

    def pictures(self) -> Iterator[Named]:
        """Every picture by its name, at any depth, sorted by path."""
        tree, _ = self._tree
        for path, _ in sorted(tree.all_files()):
            if looks_like_picture(path):
                yield path, Remote(f"{self.url}/{path}", self.allowed)

    def state(self) -> Any:
        """Names, sizes, and what the storage says of their contents."""
        layout = self._layout
        files = [[one.path + name, kept] for one in layout.classes for name, kept in one.files]
        return [*files, *([path] for path, _ in layout.strays)]

    def reading(self) -> Reading:
        """What was taken for what."""
        return self._layout.reading

    @cached_property
    def _tree(self) -> tuple[Node, Counter[str]]:
        filesystem, root = filesystem_of(self.url, self.allowed)
        with _answering(self.url):
            details_of = filesystem.find(root, detail=True)
        paths = (
            (PurePosixPath(path).relative_to(PurePosixPath(root)).as_posix(), _identity(details))
            for path, details in details_of.items()
        )
        ignored = Counter[str]()
        return tree_of(paths, ignored), ignored

    @cached_property
    def _layout(self) -> Layout:
        tree, ignored = self._tree
        return read_tree(tree, self.url, self.rule, ignored)


def folders_in(url: str, allowed: frozenset[str]) -> list[str]:
    """Names of the folders right below a URL, sorted.

    Raises:
        DataError: it cannot be reached.
    """
    filesystem, root = filesystem_of(url, allowed)
    with _answering(url):
        try:
            found = filesystem.ls(root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
    names = (PurePosixPath(one["name"]).name for one in found if one["type"] == "directory")
    return sorted(name for name in names if not is_clutter(name))


def shards_in(url: str, places: Sequence[str], ending: str, allowed: frozenset[str]) -> list[str]:
    """URLs of the files with this ending that lie in places below a URL.

    Raises:
        DataError: it cannot be reached.
    """
    filesystem, root = filesystem_of(url, allowed)
    names = []
    with _answering(url):
        for place in places:
            folder = f"{root}/{place}".rstrip("/")
            with suppress(FileNotFoundError, NotADirectoryError):
                names += [
                    name for name in filesystem.ls(folder, detail=False) if name.endswith(ending)
                ]
    return [filesystem.unstrip_protocol(name) for name in sorted(names)]


def fetch(urls: Sequence[str], folder: Path, allowed: frozenset[str]) -> tuple[Path, ...]:
    """Local copies of the files that URLs name, which may have `*` in them.

    Copies are kept, each in a folder called as the original's, and fetched again only when the
    original has changed.

    Raises:
        DataError: one cannot be reached, or names no file.
    """
    copies: list[Path] = []
    for url in urls:
        filesystem, path = filesystem_of(url, allowed)
        with _answering(url):
            names = sorted(filesystem.glob(path)) if "*" in path else [path]
            copies += [_copy(filesystem, name, folder) for name in names]
    if not copies:
        msg = f"{urls[0]}: names no file"
        raise DataError(msg)
    return tuple(copies)


def _copy(filesystem: Any, name: str, folder: Path) -> Path:
    text = f"{filesystem.protocol}\0{name}\0{_identity(filesystem.info(name))}"
    original = PurePosixPath(name)
    place = folder / hashlib.sha256(text.encode()).hexdigest()[:16] / original.parent.name
    target = place / original.name
    if not target.exists():
        place.mkdir(parents=True, exist_ok=True)
        part = place / f"{uuid.uuid4().hex}.part"
        try:
            with filesystem.open(name, "rb") as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy, length=1 << 22)
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
    return target


def identity_of(files: Sequence[Remote]) -> list[list[str]]:
    """What their storages say of files, without fetching them; side by side."""
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        return list(pool.map(_identity_of_one, files))


def _identity_of_one(file: Remote) -> list[str]:
    url = file.url
    filesystem, path = filesystem_of(url, file.allowed)
    with _answering(url):
        try:
            return [url, *_identity(filesystem.info(path))]
        except FileNotFoundError:
            return [url]


def _identity(details: dict[str, Any]) -> list[str]:
    keys = (
        "size",
        "ETag",
        "etag",
        "md5Hash",
        "crc32c",
        "LastModified",
        "mtime",
        "updated",
        "blob_id",
    )
    return [str(details[key]) for key in keys if key in details]


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Turns whatever a storage answers into an error for people."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each storage has its own
        msg = f"{url}: cannot be read ({reason_for_people(error)})"
        raise DataError(msg) from error
