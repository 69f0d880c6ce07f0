"""What libraries raise becomes one line that says what to do."""

import errno

import pytest
from safetensors import SafetensorError

from imgrec.errors import disk_failure


def behind(cause: Exception) -> Exception:
    """An error whose cause is another one."""
    error = RuntimeError("upload failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/storage/x"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "/storage/x"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
        behind(OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_a_disk_failure_is_known_whoever_noticed(error: Exception) -> None:
    """By the system's number, by the words of a library, and behind other errors."""
    found = disk_failure(error)
    assert found is not None
    assert "is full" in str(found)
    assert "the same command goes on" in str(found)


def test_other_errors_are_not_taken_for_a_disk_failure() -> None:
    """They keep their traceback."""
    assert disk_failure(OSError(errno.EACCES, "Permission denied")) is None
    assert disk_failure(RuntimeError("a disk is round")) is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), "is read-only"),
        (
            RuntimeError("(sqlite3.OperationalError) attempt to write a readonly database"),
            "read-only",
        ),
        (OSError(errno.EIO, "Input/output error"), "fails"),
        (OSError(errno.ESTALE, "Stale file handle"), "fails"),
    ],
)
def test_a_disk_that_went_away_is_an_error_for_people(error: Exception, said: str) -> None:
    """A mount that turned read-only, a cable, a server of files that was started anew."""
    found = disk_failure(error)

    assert found is not None
    assert said in str(found)
    assert "the same command goes on from there" in str(found)
