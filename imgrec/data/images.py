"""Files of images (n, H, W, C) uint8, and one file with all of a store's on this machine's own disk.

Training reads pictures in random order, which a storage that many machines share is slow at. So each
machine copies the images once, and every process on it maps the copy. The least recently used copies
are removed when a new one needs their room.
"""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from numpy.lib.format import open_memmap

from imgrec.cache import FOLDER_VARIABLE, cache_folder
from imgrec.data.encoded import EncodedImages
from imgrec.errors import StorageError, reason_of
from imgrec.machine import take_room
from imgrec.shapes import ImageShape

COPIED_AT_ONCE = 64 << 20
LEFT_FREE = 1 << 30
Images = np.memmap[tuple[int, ...], np.dtype[np.uint8]]
AnyImages = npt.NDArray[np.uint8] | EncodedImages
"""What can be indexed as an array (N, H, W, C) uint8."""


def new_images(path: Path, shape: Sequence[int]) -> Images:
    """A file for images, mapped, with its room on the disk taken.

    A disk that fills up under a map would kill the process that writes to it.

    Raises:
        StorageError: there is no room.
    """
    try:
        images: Images = open_memmap(path, mode="w+", dtype=np.uint8, shape=tuple(shape))
        with path.open("r+b") as file:
            take_room(file.fileno(), path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        size = math.prod(shape) / 1e9
        msg = (
            f"{path.parent}: {error.strerror}; {size:.1f} GB of pictures are to be written there; make room, "
            f"or set data.keep to jpeg"
        )
        raise StorageError(msg) from error
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


def all_images(folder: Path, key: str, count: int, image_shape: ImageShape) -> AnyImages:
    """The images of a store: in its only file, or in this machine's copy of its several.

    Encoded pictures are not copied: they were encoded because they are too many.

    Args:
        folder: Of the store.
        key: What it is called, also while it is being built elsewhere.
        count: How many there must be.
        image_shape: Of each.

    Raises:
        StorageError: this machine has no room for the copy, or the store is not whole.
    """
    if encoded := sorted(folder.glob("images-*.arrow")):
        pictures = EncodedImages(encoded, image_shape)
        _refuse_parts(folder, len(pictures), count)
        return pictures
    parts = sorted(folder.glob("images-*.npy"))
    if len(parts) == 1:
        return _of(folder, [np.load(parts[0], mmap_mode="r")], count)[0]
    home = cache_folder()
    copy = home / f"{key}.npy"
    # One process of a machine copies or removes at a time; the others wait for it.
    with FileLock(home / "lock"):
        if not copy.exists():
            images = _of(folder, [np.load(part, mmap_mode="r") for part in parts], count)
            _make_room(home, sum(image.nbytes for image in images))
            draft = home / f"{key}.part"
            _put_together(images, draft)
            draft.replace(copy)
        os.utime(copy)  # when it was last used
        return np.load(copy, mmap_mode="r")


def refuse_without_room(needed: int) -> None:
    """Raise StorageError where this machine's disk could never hold a copy of so many bytes."""
    home = cache_folder()
    with FileLock(home / "lock"):
        free = shutil.disk_usage(home).free
        _refuse(home, needed, free + sum(path.stat().st_size for path in home.glob("*.npy")))


def _of(folder: Path, images: list[Images], count: int) -> list[Images]:
    _refuse_parts(folder, sum(len(image) for image in images), count)
    return images


def _refuse_parts(folder: Path, rows: int, count: int) -> None:
    if rows != count:
        msg = f"{folder}: is not whole; remove it, and the next run prepares the pictures again"
        raise StorageError(msg)


def _put_together(images: Sequence[Images], path: Path) -> None:
    """All images into one file, some rows at a time."""
    copy = new_images(path, (sum(len(image) for image in images), *images[0].shape[1:]))
    step = _rows_at_once(copy.shape)
    start = 0
    try:
        for image in images:
            for first in range(0, len(image), step):
                rows = image[first : first + step]
                copy[start : start + len(rows)] = rows
                start += len(rows)
        copy.flush()
    except OSError as error:
        path.unlink(missing_ok=True)
        msg = f"{path}: {reason_of(error)}"
        raise StorageError(msg) from error


def _rows_at_once(shape: Sequence[int]) -> int:
    return max(1, COPIED_AT_ONCE // math.prod(shape[1:]))


def _make_room(home: Path, needed: int) -> None:
    """Remove copies, the least recently used first. A process that has one mapped keeps its pixels."""
    for part in home.glob("*.part"):  # of a process that was killed: we hold the lock
        part.unlink()
    others = sorted(home.glob("*.npy"), key=lambda path: path.stat().st_mtime)
    free = shutil.disk_usage(home).free
    _refuse(home, needed, free + sum(path.stat().st_size for path in others))
    while shutil.disk_usage(home).free < needed + LEFT_FREE and others:
        others.pop(0).unlink()
    _refuse(home, needed, shutil.disk_usage(home).free)


def _refuse(home: Path, needed: int, free: int) -> None:
    if free < needed + LEFT_FREE:
        msg = (
            f"{home}: the pictures take {needed / 1e9:.1f} GB on the disk of each node, and "
            f"{free / 1e9:.1f} GB can be had; set {FOLDER_VARIABLE} to a folder on another disk, or data.keep "
            f"to jpeg"
        )
        raise StorageError(msg)
