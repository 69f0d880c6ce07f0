"""What libraries raise becomes one line that says what to do."""

import errno

import pytest
from safetensors import SafetensorError

from imgrec.errors import full_disk


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
def test_a_full_disk_is_known_whoever_noticed(error: Exception) -> None:
    """By the system's number, by the words of a library, and behind other errors."""
    found = full_disk(error)
    assert found is not None
    assert "is full" in str(found)
    assert "the same command goes on" in str(found)


def test_other_errors_are_not_taken_for_a_full_disk() -> None:
    """They keep their traceback."""
    assert full_disk(OSError(errno.EACCES, "Permission denied")) is None
    assert full_disk(RuntimeError("a disk is round")) is None
