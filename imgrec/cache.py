"""What this machine keeps between runs: a folder of the user's own, of which everything can be made anew."""

import os
import stat
import tempfile
from pathlib import Path

from imgrec.errors import StorageError

FOLDER_VARIABLE = "IMGREC_CACHE"
"""The environment variable that names the folder: machines differ in their disks, so it is no setting of a run."""


def cache_folder() -> Path:
    """The folder; made if need be, and nobody else's.

    Raises:
        StorageError: it cannot be made, or belongs to somebody else.
    """
    above = Path(os.environ.get(FOLDER_VARIABLE) or tempfile.gettempdir())
    folder = above / f"imgrec-cache-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        msg = (
            f"{folder}: cannot be made ({error.strerror}); set {FOLDER_VARIABLE} to another folder"
        )
        raise StorageError(msg) from error
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        msg = f"{folder}: belongs to another user, or is a link; set {FOLDER_VARIABLE} to another folder"
        raise StorageError(msg)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        msg = f"{folder}: others may write to it; chmod 700 {folder}"
        raise StorageError(msg)
    return folder
