"""What can go wrong, as a tree.

    ImgrecError                the user can cure it: one line, no traceback
    ├── ConfigError            a setting is unknown, of the wrong type or out of range
    ├── DataError              the pictures cannot be used as they are
    │   ├── DecodeError        one file is not a picture that we can read
    │   └── UnreadError        some of many pictures could not be read; the others were answered
    ├── ClusterError           Ray cannot give what the settings ask for
    ├── StorageError           a disk has no room, or is not ours to write to
    ├── TrackingError          MLflow does not answer, or does not know the model asked for
    ├── ClassifierError        a saved classifier is broken or of another version
    └── TrainingError          training ended without the model that was asked for
        └── DivergedError      the loss is no longer a number

Each error carries nothing but its message, so that it can be pickled across process borders.
`exit_status` is what the command line ends with: 2 where the input must change, 3 where the run
ended without what was asked. Anything that is not an ImgrecError is our bug and keeps its traceback.
"""

import errno
import platform
import re
from collections.abc import Iterator
from typing import ClassVar

LONGEST_REASON = 300
# What libraries say that raise no OSError: safetensors, PyArrow, SQLite.
# Error numbers, what libraries say that have none, what it is, and the cure.
DISK_FAILURES = (
    (
        {errno.ENOSPC, errno.EDQUOT},
        re.compile(r"no space left on device|disk quota exceeded|disk is full", re.IGNORECASE),
        "is full",
        "make room",
    ),
    (
        {errno.EROFS},
        re.compile(r"read-only file system|readonly database", re.IGNORECASE),
        "is read-only",
        "make it writable",
    ),
    (
        {errno.EIO, errno.ESTALE, errno.EBADMSG},
        re.compile(r"input/output error|stale file handle|disk I/O error", re.IGNORECASE),
        "fails",
        "look after it",
    ),
)


class ImgrecError(Exception):
    """An error for people: `what: what is wrong, or the cure`, in one line."""

    exit_status: ClassVar[int] = 2


class ConfigError(ImgrecError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(ImgrecError):
    """The pictures cannot be used as they are."""


class DecodeError(DataError):
    """One file is not a picture that we can read; the message is the reason."""


class UnreadError(DataError):
    """Some of many pictures could not be read; the others were answered."""

    exit_status = 3


class ClusterError(ImgrecError):
    """Ray cannot give what the settings ask for."""


class StorageError(ImgrecError):
    """A disk has no room, or is not ours to write to."""


class TrackingError(ImgrecError):
    """MLflow does not answer, or does not know what it was asked for."""


class ClassifierError(ImgrecError):
    """A saved classifier is broken, or was written by another version."""


class TrainingError(ImgrecError):
    """Training ended without the model that was asked for."""

    exit_status = 3


class DivergedError(TrainingError):
    """The loss is no longer a number."""


def disk_failure(error: BaseException) -> StorageError | None:
    """The error for people, where the cause of one is a disk that cannot be written to, whoever noticed."""
    for cause in _causes(error):
        if isinstance(cause, StorageError):
            return cause
        number = cause.errno if isinstance(cause, OSError) else None
        for numbers, text, what, cure in DISK_FAILURES:
            if number in numbers or text.search(str(cause)):
                msg = (
                    f"a disk of {platform.node()} {what} ({reason_of(cause)}); {cure}, and the same "
                    f"command goes on from there"
                )
                return StorageError(msg)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def reason_of(error: BaseException) -> str:
    """What an error of a library says, in one line."""
    return " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
