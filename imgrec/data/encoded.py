"""Pictures kept as JPEG, where the pixels of all would take too much room.

A file of them is an Arrow file (IPC) with one column of bytes: a format that others read too, and from which
any row can be had at once through a memory map; from parquet one would have to read a group of rows for
each. Training asks for pictures in random order.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from imgrec.data.decode import Pixels
from imgrec.errors import StorageError, reason_of
from imgrec.machine import available_cores
from imgrec.shapes import ImageShape

QUALITY = 95
COLUMN = "jpeg"
WORTH_THREADS = 64


def encode_jpeg(pixels: Pixels) -> bytes:
    """Pixels (H, W, C) of a store to a JPEG without chroma subsampling."""
    grey = pixels.shape[2] == 1
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels),
        quality=QUALITY,
        colorspace="GRAY" if grey else "RGB",
        colorsubsampling="Gray" if grey else "444",
    )


@contextmanager
def encoded_file(path: Path) -> Iterator[Callable[[Sequence[bytes]], None]]:
    """A new file of encoded pictures, and how to add some behind those that are there.

    Raises:
        StorageError: there is no room.
    """
    import pyarrow as pa  # noqa: PLC0415 - 0.2 s, and most stores are of pixels

    schema = pa.schema([(COLUMN, pa.large_binary())])
    with _written_to(path):
        disk = path.open("wb")

    def add(encoded: Sequence[bytes]) -> None:
        column = pa.array(encoded, type=pa.large_binary())
        with _written_to(path):
            file.write_batch(pa.record_batch([column], schema=schema))

    with disk:
        file = pa.ipc.new_file(disk, schema)
        yield add
        with _written_to(path):
            file.close()
            disk.flush()
            os.fsync(disk.fileno())  # where a shared disk says that it is full


@contextmanager
def _written_to(path: Path) -> Iterator[None]:
    """Turn an OSError inside into a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        msg = f"{path}: {reason_of(error)}"
        raise StorageError(msg) from error


class EncodedImages:
    """Files of encoded pictures, read as if they were one array (N, H, W, C) uint8.

    Args:
        files: One after the other.
        image_shape: Height, width, channels.

    Attributes:
        threads: How many threads decode; by default one for each core of this process.

    Raises:
        StorageError: from whatever reads: a file is not whole.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[Path], image_shape: ImageShape) -> None:
        self._files = files
        self._image_shape = image_shape
        self.threads = available_cores()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return (len(self), *self._image_shape)

    @property
    def nbytes(self) -> int:
        """What the pixels would take."""
        return math.prod(self.shape)

    def __getitem__(self, rows: Any) -> npt.NDArray[np.uint8]:
        """Pixels (n, H, W, C) of rows: an array or a list of them, or a slice; (H, W, C) of one."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        chosen = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        chosen = np.where(chosen < 0, chosen + len(self), chosen)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            msg = f"a row beyond the {len(self)} that there are"
            raise IndexError(msg)
        pixels = np.empty((len(chosen), *self._image_shape), dtype=np.uint8)

        def decode(places: range) -> None:
            for place in places:
                self._decode(int(chosen[place]), pixels[place])

        if len(chosen) < WORTH_THREADS or self.threads == 1:
            decode(range(len(chosen)))
        else:
            # libjpeg releases the interpreter lock, so threads are enough.
            parts = [range(first, len(chosen), self.threads) for first in range(self.threads)]
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(decode, parts))
        return pixels[0] if isinstance(rows, int | np.integer) else pixels

    def _decode(self, row: int, into: npt.NDArray[np.uint8]) -> None:
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        offsets, content = self._batches[batch]
        first, end = offsets[row - self._starts[batch] :][:2].tolist()
        grey = self._image_shape[2] == 1
        into[...] = simplejpeg.decode_jpeg(content[first:end], "GRAY" if grey else "RGB")

    @cached_property
    def _batches(self) -> list[tuple[npt.NDArray[np.int64], memoryview]]:
        """For each batch of n rows their offsets (n + 1,) and the bytes, memory-mapped."""
        import pyarrow as pa  # noqa: PLC0415

        batches = []
        for file in self._files:
            try:
                table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            except pa.ArrowInvalid as error:
                msg = f"{file}: is not whole; remove {file.parent}, and the next run prepares it again"
                raise StorageError(msg) from error
            for chunk in table.column(COLUMN).chunks:
                _, offsets, content = chunk.buffers()
                begin = chunk.offset
                numbers = np.frombuffer(offsets, dtype=np.int64)[begin : begin + len(chunk) + 1]
                batches.append((numbers, memoryview(content or b"").cast("B")))
        return batches

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        """The first row of each batch, and the number of all rows as the last element."""
        return np.cumsum([0, *(len(offsets) - 1 for offsets, _ in self._batches)])
