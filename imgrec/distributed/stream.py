"""Encoded pictures, decoded by cores of the cluster that no worker holds, through Ray Data."""

import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imgrec.data.encoded import EncodedImages
from imgrec.data.images import AnyImages
from imgrec.data.loader import Batch, Pictures
from imgrec.data.splits import Indices
from imgrec.data.store import Store, open_store
from imgrec.errors import reason_of

PATIENCE_SECONDS = 60.0
AHEAD = 2
BATCHES_AT_ONCE = 1000
"""In one stream: few enough for Ray to keep an account of each, enough not to notice its start."""


class StreamedPictures(Pictures):
    """Pictures whose batches come out of a stream, the same and in the same order as without it.

    Where nothing comes for a minute, because the cores went with their node or to somebody else, or where
    Ray gives up, this process decodes for itself from there on.

    Args:
        store: Of encoded pictures, where every node sees it.
        device: As for `Pictures`.
        tasks: How many cores to decode with.
    """

    def __init__(self, store: Store, device: torch.device, tasks: int) -> None:
        super().__init__(store, device)
        self._folder = store.folder
        self._tasks = tasks
        self.broken_by = ""

    def in_turn(self, choices: Iterable[Indices]) -> Iterator[tuple[Indices, Batch]]:
        """A batch for each choice of rows, with the rows."""
        waiting = iter(choices)
        while not (self.is_resident or self.broken_by):
            some = list(itertools.islice(waiting, BATCHES_AT_ONCE))
            if not some:
                return
            done = 0
            for rows, pixels in zip(some, self._stream(some), strict=False):
                yield rows, self.batch_of(rows, pixels)
                done += 1
            waiting = itertools.chain(some[done:], waiting)
        yield from super().in_turn(waiting)

    def _stream(self, choices: list[Indices]) -> Iterator[npt.NDArray[np.uint8]]:
        """The pixels (n, H, W, C) of each choice, for as long as they come."""
        came: queue.Queue[bytes | Exception] = queue.Queue(maxsize=AHEAD)
        left = threading.Event()
        # Not waited for: in Ray it may hang as long as Ray does.
        threading.Thread(target=self._fill, args=(choices, came, left), daemon=True).start()
        try:
            for rows in choices:
                found = came.get(timeout=PATIENCE_SECONDS)
                if isinstance(found, Exception):
                    self._break(reason_of(found))
                    return
                pixels = np.frombuffer(
                    found, dtype=np.uint8
                ).copy()  # not Ray's own, to be written to
                yield pixels.reshape(len(rows), *self.image_shape)
        except queue.Empty:
            self._break(f"nothing came for {PATIENCE_SECONDS:.0f} s")
        finally:
            left.set()

    def _break(self, reason: str) -> None:
        self.broken_by = reason
        logging.getLogger(__name__).warning("worker decodes for itself from now on: %s", reason)

    def _fill(
        self, choices: list[Indices], came: "queue.Queue[bytes | Exception]", left: threading.Event
    ) -> None:
        import ray.data  # noqa: PLC0415 - most stores are of pixels

        def put(one: bytes | Exception) -> None:
            while not left.is_set():
                with contextlib.suppress(queue.Full):
                    came.put(one, timeout=1)
                    return

        try:
            context = ray.data.DataContext.get_current()
            context.execution_options.preserve_order = True
            context.enable_progress_bars = False
            wanted = [{"rows": rows.tobytes()} for rows in choices]
            stream = ray.data.from_items(wanted, override_num_blocks=len(wanted)).map(
                _decoded,
                fn_kwargs={"folder": self._folder},
                num_cpus=1,
                compute=ray.data.TaskPoolStrategy(size=self._tasks),
            )
            for found in stream.iter_rows():
                put(found["pixels"])
                if left.is_set():
                    return
        except Exception as error:
            put(error)


def worth_streaming(store: Store, tasks: int) -> bool:
    """Whether there is something to decode, and somebody who has nothing else to do."""
    return tasks > 0 and isinstance(store.images, EncodedImages)


def _decoded(row: dict[str, Any], folder: Path) -> dict[str, bytes]:
    """In a task of Ray's, which has one core: the rows of a batch to its pixels."""
    rows = np.frombuffer(row["rows"], dtype=np.int64)
    return {"pixels": _images(folder)[rows].tobytes()}


@lru_cache(maxsize=1)
def _images(folder: Path) -> AnyImages:
    images = open_store(folder).images
    if isinstance(images, EncodedImages):
        images.threads = 1
    return images
