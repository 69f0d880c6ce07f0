"""Encoded pictures, decoded by cores of the cluster that no worker holds, in tasks of Ray.

Plain tasks, and no thread of ours or of a library: whoever leaves a stream cancels what is on its way,
and nothing of it is at work when Ray goes down.
"""

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from imgrec.data.encoded import EncodedImages
from imgrec.data.images import AnyImages
from imgrec.data.loader import Batch, Pictures
from imgrec.data.splits import Indices
from imgrec.data.store import Store, open_store
from imgrec.distributed.leave import leave
from imgrec.errors import reason_of

PATIENCE_SECONDS = 60.0
# Tasks on their way at a time, for each core: one runs while the next waits.
AHEAD = 2


class StreamedPictures(Pictures):
    """Pictures whose batches come out of a stream, the same and in the same order as without it.

    Where nothing comes for a minute, because the cores went with their node or to somebody else, where
    Ray gives up, or where the files cannot be read there, this process decodes for itself from there on.
    Any other error of a task is a bug, and is raised.

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
        waiting: deque[tuple[Indices, ray.ObjectRef]] = deque()
        remaining = iter(choices)
        task = ray.remote(num_cpus=1)(_decoded)
        try:
            while not (self.is_resident or self.broken_by):
                for rows in itertools.islice(remaining, AHEAD * self._tasks - len(waiting)):
                    waiting.append((rows, task.remote(rows, self._folder)))
                if not waiting:
                    return
                rows, answer = waiting[0]
                pixels = self._answer(answer)
                if pixels is not None:
                    waiting.popleft()
                    # A copy, for Ray's own is not to be written to.
                    yield rows, self.batch_of(rows, pixels.copy())
        finally:
            leave([answer for _, answer in waiting])
        yield from super().in_turn(itertools.chain([rows for rows, _ in waiting], remaining))

    def _answer(self, answer: ray.ObjectRef) -> npt.NDArray[np.uint8] | None:
        """The pixels (n, H, W, C) of a task; None where the stream has broken."""
        try:
            return ray.get(answer, timeout=PATIENCE_SECONDS)
        except GetTimeoutError:
            self._break(f"nothing came for {PATIENCE_SECONDS:.0f} s")
        except RayTaskError as error:
            if not isinstance(error.cause, OSError):
                raise
            self._break(reason_of(error.cause))
        except RayError as error:
            self._break(reason_of(error))
        return None

    def _break(self, reason: str) -> None:
        self.broken_by = reason
        logging.getLogger(__name__).warning("worker decodes for itself from now on: %s", reason)


def pictures_for(store: Store, device: torch.device, *, spare: int) -> Pictures:
    """As they reach a worker for which so many cores are spare."""
    if worth_streaming(store, spare):
        return StreamedPictures(store, device, spare)
    return Pictures(store, device)


def worth_streaming(store: Store, tasks: int) -> bool:
    """Whether there is something to decode, and somebody who has nothing else to do."""
    return tasks > 0 and isinstance(store.images, EncodedImages)


def _decoded(rows: Indices, folder: Path) -> npt.NDArray[np.uint8]:
    """In a task of Ray's, which has one core: the rows of a batch to their pixels (n, H, W, C)."""
    return _images(folder)[rows]


@lru_cache(maxsize=1)
def _images(folder: Path) -> AnyImages:
    images = open_store(folder).images
    if isinstance(images, EncodedImages):
        images.threads = 1
    return images
