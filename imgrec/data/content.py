"""Where the bytes of a picture are: a small object that travels to the process that decodes."""

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from imgrec.errors import DecodeError

if TYPE_CHECKING:
    from concurrent.futures import Future

MOST_BYTES = 1 << 30
FETCHED_AT_ONCE = 32


class Content(Protocol):
    """Where the bytes of a picture are; small, and read in the process that decodes."""

    def read(self) -> bytes | npt.NDArray[np.uint8]:
        """The bytes of a file, or pixels (H, W) or (H, W, 3).

        Raises:
            DecodeError: they cannot be had.
        """


class Distant:
    """A content on another machine: of several some are fetched side by side."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class InMemoryFile:
    """The bytes of a file that are in memory already."""

    content: bytes = field(repr=False)

    def read(self) -> bytes:
        """The bytes."""
        return self.content


@dataclass(frozen=True, slots=True)
class InMemoryPixels:
    """Pixels that are in memory already."""

    array: npt.NDArray[np.uint8]

    def read(self) -> npt.NDArray[np.uint8]:
        """The pixels."""
        return self.array


@dataclass(frozen=True, slots=True)
class Missing:
    """A picture that cannot be read; `reason` says why."""

    reason: str

    def read(self) -> bytes:
        """Raises DecodeError with the reason."""
        raise DecodeError(self.reason)


class File(NamedTuple):
    """A file of its own. A tuple of text, for hundreds of thousands travel between processes."""

    path: str

    def read(self) -> bytes:
        """The whole file."""
        try:
            # Without waiting: to open a pipe would wait for somebody to write into it.
            file = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    msg = "not a file but a folder, a pipe or a device"
                    raise DecodeError(msg)
                refuse_huge(status.st_size)
                return _read_to_end(file, status.st_size)
            finally:
                os.close(file)
        except FileNotFoundError as error:
            msg = f"there is no {self.path}"
            raise DecodeError(msg) from error
        except OSError as error:
            msg = f"cannot be read: {error.strerror}"
            raise DecodeError(msg) from error
        except ValueError as error:  # a path with a zero byte in it
            msg = f"cannot be read: {error}"
            raise DecodeError(msg) from error


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a larger file, such as a member of a tar."""

    path: Path
    start: int
    size: int

    def read(self) -> bytes:
        """The stretch."""
        refuse_huge(self.size)
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                return file.read(self.size)
        except OSError as error:
            msg = f"cannot be read: {error.strerror}"
            raise DecodeError(msg) from error


def _read_to_end(file: int, size: int) -> bytes:
    """A file of this size; one read is enough for all but those on slow networks."""
    content = os.read(file, size + 1)
    while len(content) < size and (more := os.read(file, size + 1 - len(content))):
        content += more
    return content


def refuse_huge(size: int) -> None:
    """Raise DecodeError for what no picture of a person is as large as."""
    if size > MOST_BYTES:
        msg = f"more than {MOST_BYTES >> 20} MiB"
        raise DecodeError(msg)


Read = bytes | npt.NDArray[np.uint8] | DecodeError


def read_all(contents: Sequence[Content]) -> Iterator[Read]:
    """The contents in their order; what cannot be read comes as its error.

    Those behind URLs are fetched side by side.
    """
    if any(isinstance(content, Distant) for content in contents):
        yield from _fetched(contents)
    else:
        yield from map(_read, contents)


def _fetched(contents: Sequence[Content]) -> Iterator[Read]:
    """No more than FETCHED_AT_ONCE of them are in memory."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only for what is elsewhere

    ahead: deque[Future[Read]] = deque()
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        for content in contents:
            if len(ahead) == FETCHED_AT_ONCE:
                yield ahead.popleft().result()
            ahead.append(pool.submit(_read, content))
        while ahead:
            yield ahead.popleft().result()


def _read(content: Content) -> Read:
    try:
        return content.read()
    except DecodeError as error:
        return error
