"""A picture before it is read: what it is called, where its content is, and what it shows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from imgrec.errors import DecodeError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
MOST_BYTES = 1 << 30


class Content(Protocol):
    """Where the bytes of a picture are; small, and read in the process that decodes."""

    def read(self) -> bytes | npt.NDArray[np.uint8]:
        """The bytes of a file, or pixels (H, W) or (H, W, 3).

        Raises:
            DecodeError: they cannot be had.
        """


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture before it is read.

    Attributes:
        id: Unique name within the source; for files the path below the source's folder.
        content: Where its bytes are.
        label: Name of its class; empty if the source does not say.
        split: Where the source wants it, or None.
    """

    id: str
    content: Content
    label: str
    split: Split | None = None


class Source(Protocol):
    """Pictures with their classes. What is iterated comes in the same order every time."""

    def __iter__(self) -> Iterator[Sample]:
        """All samples; each time the same in the same order.

        Raises:
            DataError: the source does not hold pictures with classes.
        """

    def state(self) -> Any:
        """What tells, without reading the contents, whether they have changed; JSON can hold it."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of its own."""

    path: Path

    def read(self) -> bytes:
        """The whole file."""
        try:
            if self.path.stat().st_size > MOST_BYTES:
                msg = f"a file of more than {MOST_BYTES >> 20} MiB"
                raise DecodeError(msg)
            return self.path.read_bytes()
        except OSError as error:
            msg = f"cannot be read: {error.strerror}"
            raise DecodeError(msg) from error


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a larger file, such as a member of a tar."""

    path: Path
    start: int
    size: int

    def read(self) -> bytes:
        """The stretch."""
        if self.size > MOST_BYTES:
            msg = f"a member of more than {MOST_BYTES >> 20} MiB"
            raise DecodeError(msg)
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                return file.read(self.size)
        except OSError as error:
            msg = f"cannot be read: {error.strerror}"
            raise DecodeError(msg) from error


@dataclass(frozen=True, slots=True)
class Pixels:
    """Pixels that are in memory already."""

    array: npt.NDArray[np.uint8]

    def read(self) -> npt.NDArray[np.uint8]:
        """The pixels."""
        return self.array


@dataclass(frozen=True, slots=True)
class Missing:
    """Nothing, because of what the source says of this sample."""

    reason: str

    def read(self) -> bytes:
        """Raises DecodeError with the reason."""
        raise DecodeError(self.reason)


@dataclass(frozen=True, slots=True)
class Remote:
    """A file behind a URL; `read_all` reads many at once."""

    url: str

    def read(self) -> bytes:
        """The whole file."""
        return next(iter(_fetched([self.url]).values()))


Read = bytes | npt.NDArray[np.uint8] | DecodeError


def read_all(contents: list[Content]) -> Iterator[Read]:
    """The contents in their order; what cannot be read comes as its error.

    Those behind URLs are fetched side by side.
    """
    urls = [content.url for content in contents if isinstance(content, Remote)]
    fetched = _fetched(urls) if urls else {}
    for content in contents:
        try:
            yield fetched[content.url] if isinstance(content, Remote) else content.read()
        except DecodeError as error:
            yield error


class _Fetched(dict[str, Any]):
    """By URL; to take one that could not be fetched raises DecodeError."""

    def __getitem__(self, url: str) -> Any:
        found = super().__getitem__(url)
        if isinstance(found, Exception):
            reason = " ".join(str(found).split())[:150] or type(found).__name__
            msg = f"cannot be fetched: {reason}"
            raise DecodeError(msg) from found
        return found

    def values(self) -> Any:
        """Each as `__getitem__` gives it."""
        return [self[url] for url in self]


def _fetched(urls: list[str]) -> _Fetched:
    filesystem = _filesystem(urls[0].partition("://")[0])
    paths = [filesystem._strip_protocol(url) for url in urls]  # noqa: SLF001 - fsspec has no other
    found = filesystem.cat(paths, on_error="return")
    if isinstance(found, bytes):  # fsspec's answer to a list of one
        found = {paths[0]: found}
    return _Fetched({url: found[path] for url, path in zip(urls, paths, strict=True)})


@cache
def _filesystem(protocol: str) -> Any:
    import fsspec  # noqa: PLC0415 - only for what is not on this machine

    return fsspec.filesystem(protocol)
