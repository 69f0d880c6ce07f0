"""A picture before it is read: what it is called, where its content is, and what it shows."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

from imgrec.data.content import MOST_BYTES, Content, Distant, refuse_huge
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.web import HTTP, HTTP_PREFIXES, SCHEMES, http_options, read_http
from imgrec.errors import DataError, DecodeError, reason_of

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
TRIES = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture before it is read.

    Attributes:
        id: Unique name within the source; for files the path below the source's folder.
        content: Where its bytes are.
        label: Name of its class; empty if the source does not say.
        split: Where the source wants it, or None.
        group: What it has in common with others that must be in the same split; empty if nothing.
    """

    id: str
    content: Content
    label: str
    split: Split | None = None
    group: str = ""


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


def nothing_told(_what: str, _done: int, _total: int) -> None:
    """For whoever does not want to know how far it is."""


Named = tuple[str, Content]
"""What a picture is called, as in Sample.id, and where its bytes are."""


class Source(Protocol):
    """Pictures with their classes. What is iterated comes in the same order every time."""

    def __iter__(self) -> Iterator[Sample]:
        """All samples; each time the same in the same order.

        Raises:
            DataError: the source does not hold pictures with classes.
        """

    def pictures(self) -> Iterator[Named]:
        """All pictures, in a fixed order, whether or not anything says what they show.

        Raises:
            DataError: the source cannot be read.
        """

    def state(self) -> Any:
        """What tells, without reading the contents, whether they have changed; JSON can hold it."""

    def reading(self) -> Reading:
        """What was taken for what."""


@dataclass(frozen=True, slots=True)
class Remote(Distant):
    """A file behind a URL.

    Attributes:
        url: Of a host that may be asked.
        allowed: Places beside its own that it may be redirected to.
    """

    url: str
    allowed: frozenset[str] = frozenset()

    def read(self) -> bytes:
        """The whole file, at the second or third try if need be.

        Raises:
            DecodeError: there is no such file.
            DataError: its storage does not answer; to leave the file out would be for good.
        """
        for tries in range(1, TRIES + 1):
            try:
                content = self._content()
            except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
                msg = f"cannot be fetched: {type(error).__name__}"
                raise DecodeError(msg) from error
            except (DecodeError, DataError, MemoryError):
                raise
            except Exception as error:  # each storage has its own
                if tries == TRIES:
                    msg = f"{self.url}: cannot be fetched ({reason_of(error)}); try again"
                    raise DataError(msg) from error
                time.sleep(tries)
            else:
                refuse_huge(len(content))
                return content
        raise AssertionError

    def _content(self) -> bytes:
        if self.url.startswith(HTTP_PREFIXES):
            return read_http(self.url, self.allowed, MOST_BYTES)
        filesystem, path = filesystem_of(self.url)
        try:
            # One byte more than allowed, so that a larger one is seen and not taken into memory.
            content: bytes = filesystem.cat_file(path, start=0, end=MOST_BYTES + 1)
        except Exception:
            # Of nothing, some storages have no part to give.
            if filesystem.size(path) == 0:
                return b""
            raise
        return content


def filesystem_of(url: str, allowed: frozenset[str] = frozenset()) -> tuple[Any, str]:
    """The storage that a URL is in, and what it calls the file.

    Args:
        url: Of any of SCHEMES.
        allowed: Places beside its own that it may be redirected to.

    Raises:
        DataError: its kind is not known, or needs a package that is not there.
    """
    protocol = url.partition("://")[0].lower()
    filesystem = _filesystem(protocol, allowed)
    return filesystem, filesystem._strip_protocol(url)  # noqa: SLF001 - fsspec has no other


@cache
def _filesystem(protocol: str, allowed: frozenset[str]) -> Any:
    if protocol not in SCHEMES:
        msg = f"{protocol}://: no kind of address that is read; there are {', '.join(sorted(SCHEMES))}"
        raise DataError(msg)
    import fsspec  # noqa: PLC0415 - only for what is not on this machine

    options = http_options(allowed) | {"skip_instance_cache": True} if protocol in HTTP else {}
    try:
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        package = re.search(r"[Ii]nstall (\w+)", str(error))
        cure = f"uv pip install {package[1]}" if package else str(error)
        msg = f"{protocol}://: this kind of address needs another package: {cure}"
        raise DataError(msg) from error
    except ValueError as error:
        msg = f"{protocol}://: {error}"
        raise DataError(msg) from error
