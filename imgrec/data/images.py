"""Files of images (n, H, W, C) uint8, and one file with all of a store's on this machine's own disk.

Training reads pictures in random order, which a storage that many machines share is slow at. So each
machine copies the images once, and every process on it maps the copy. What was not used for longest
makes room for what is new.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from numpy.lib.format import open_memmap

from imgrec.errors import DataError

FOLDER_VARIABLE = "IMGREC_CACHE"
"""Names the folder; machines have disks of their own, so it is no setting of a run."""
COPIED_AT_ONCE = 64 << 20
LEFT_FREE = 1 << 30
Images = np.memmap[tuple[int, ...], np.dtype[np.uint8]]


def new_images(path: Path, shape: Sequence[int]) -> Images:
    """A file for images, mapped, with its room on the disk taken.

    A disk that fills up under a map would kill the process that writes to it.

    Raises:
        DataError: there is no room.
    """
    try:
        images: Images = open_memmap(path, mode="w+", dtype=np.uint8, shape=tuple(shape))
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        size = math.prod(shape) / 1e9
        msg = f"{path.parent}: {error.strerror}; {size:.1f} GB of pictures are to be written there"
        raise DataError(msg) from error
    return images


def keep_rows(path: Path, rows: npt.NDArray[np.int64]) -> None:
    """Leave out the other rows, without a second copy of all in memory."""
    images = np.load(path, mmap_mode="r")
    shorter = path.with_suffix(".part")
    copy = new_images(shorter, (len(rows), *images.shape[1:]))
    step = _rows_at_once(images.shape)
    for start in range(0, len(rows), step):
        copy[start : start + step] = images[rows[start : start + step]]
    copy.flush()
    shorter.replace(path)


def cache_folder() -> Path:
    """Where copies lie on this machine; made if need be, and nobody else's.

    Raises:
        DataError: it cannot be made, or belongs to somebody else.
    """
    folder = Path(
        os.environ.get(FOLDER_VARIABLE)
        or Path(tempfile.gettempdir()) / f"imgrec-cache-{os.getuid()}"
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        msg = (
            f"{folder}: cannot be made ({error.strerror}); set {FOLDER_VARIABLE} to another folder"
        )
        raise DataError(msg) from error
    if owner != os.getuid():
        msg = f"{folder}: belongs to another user; set {FOLDER_VARIABLE} to a folder of your own"
        raise DataError(msg)
    return folder


def whole_images(folder: Path, key: str) -> Path:
    """A file with all images of a store: its only one, or this machine's copy of its several.

    Args:
        folder: Of the store.
        key: What it is called, also while it is being built elsewhere.

    Raises:
        DataError: this machine has no room for the copy.
    """
    pieces = sorted(folder.glob("images-*.npy"))
    if len(pieces) == 1:
        return pieces[0]
    home = cache_folder()
    copy = home / f"{key}.npy"
    # Of the processes of a machine one copies, and the others wait for it.
    with FileLock(home / f"{key}.lock"):
        if not copy.exists():
            images = [np.load(piece, mmap_mode="r") for piece in pieces]
            _make_room(home, sum(image.nbytes for image in images))
            part = home / f"{key}.part"
            _put_together(images, part)
            part.replace(copy)
    os.utime(copy)  # when it was last used
    return copy


def _put_together(images: Sequence[npt.NDArray[np.uint8]], path: Path) -> None:
    """One after the other, with little memory."""
    copy = new_images(path, (sum(len(image) for image in images), *images[0].shape[1:]))
    step = _rows_at_once(copy.shape)
    start = 0
    for image in images:
        for first in range(0, len(image), step):
            rows = image[first : first + step]
            copy[start : start + len(rows)] = rows
            start += len(rows)
    copy.flush()


def _rows_at_once(shape: Sequence[int]) -> int:
    return max(1, COPIED_AT_ONCE // math.prod(shape[1:]))


def _make_room(home: Path, needed: int) -> None:
    """Remove copies, those first that nobody has used for longest. Who has one mapped keeps it."""
    others = sorted(home.glob("*.npy"), key=lambda path: path.stat().st_mtime)
    while (free := shutil.disk_usage(home).free) < needed + LEFT_FREE:
        if not others:
            msg = (
                f"{home}: the pictures take {needed / 1e9:.1f} GB on the disk of each node, and "
                f"{free / 1e9:.1f} GB are free; set {FOLDER_VARIABLE} to a folder on another disk"
            )
            raise DataError(msg)
        others.pop(0).unlink(missing_ok=True)
