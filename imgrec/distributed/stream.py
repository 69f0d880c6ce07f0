"""Encoded pictures, decoded by cores of the cluster that no worker holds, through Ray Data."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgrec.data.encoded import EncodedImages
from imgrec.data.loader import Batch, Pictures
from imgrec.data.splits import Indices
from imgrec.data.store import Store, open_store

BATCHES_AT_ONCE = 1000
"""In one stream: few enough for Ray to keep an account of each, enough not to notice its start."""


class StreamedPictures(Pictures):
    """Pictures whose batches come out of a stream, the same and in the same order as without it.

    Args:
        store: Of encoded pictures, where every node sees it.
        device: As for `Pictures`.
        tasks: How many cores to decode with.
    """

    def __init__(self, store: Store, device: torch.device, tasks: int) -> None:
        super().__init__(store, device)
        self._folder = store.folder
        self._tasks = tasks

    def in_turn(self, choices: Iterable[Indices]) -> Iterator[tuple[Indices, Batch]]:
        """A batch for each choice of rows, with the rows."""
        if self.is_resident:
            yield from super().in_turn(choices)
            return
        waiting = iter(choices)
        while some := list(itertools.islice(waiting, BATCHES_AT_ONCE)):
            yield from self._stream(some)

    def _stream(self, choices: list[Indices]) -> Iterator[tuple[Indices, Batch]]:
        import ray.data  # noqa: PLC0415 - 1 s and 60 MB, and most stores are of pixels

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        wanted = [{"rows": rows.tobytes()} for rows in choices]
        stream = ray.data.from_items(wanted, override_num_blocks=len(wanted)).map(
            _decoded, fn_kwargs={"folder": self._folder}, num_cpus=1, concurrency=self._tasks
        )
        for rows, found in zip(choices, stream.iter_rows(), strict=True):
            # A copy, for Ray's memory is not to be written to.
            pixels = np.frombuffer(found["pixels"], dtype=np.uint8).copy()
            yield rows, self.batch_of(rows, pixels.reshape(len(rows), *self.image_shape))


def worth_streaming(store: Store, tasks: int) -> bool:
    """Whether there is something to decode, and somebody who has nothing else to do."""
    return tasks > 0 and isinstance(store.images, EncodedImages)


def _decoded(row: dict[str, Any], folder: Path) -> dict[str, bytes]:
    """In a task of Ray's: the rows of a batch to its pixels."""
    rows = np.frombuffer(row["rows"], dtype=np.int64)
    return {"pixels": open_store(folder).images[rows].tobytes()}
