"""Work on many samples over all cores."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from imgrec.data.sources import Sample
from imgrec.errors import DecodeError

Result = TypeVar("Result")
CHUNK = 256
# Below this many samples the start of the processes costs more than it saves.
WORTH_A_POOL = 4 * CHUNK


def read_content(sample: Sample) -> bytes | npt.NDArray[np.uint8]:
    """The bytes of a file, or the array that the sample already holds.

    Raises:
        DecodeError: the file cannot be read.
    """
    if not isinstance(sample.content, Path):
        return sample.content
    try:
        return sample.content.read_bytes()
    except OSError as error:
        msg = f"cannot be read: {error.strerror}"
        raise DecodeError(msg) from error


def map_in_chunks(
    function: Callable[..., Result], samples: Sequence[Sample], *args: Any, workers: int
) -> Iterator[list[Result]]:
    """`function(sample, *args)` for every sample, in order, a chunk of results at a time.

    Args:
        function: Defined at the top of a module, so that other processes can import it.
        samples: What to work on.
        args: Passed on to each call.
        workers: Processes to use; 0 means one a core.
    """
    chunks = [samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK)]
    run_chunk = partial(_run_chunk, function, args)
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(samples) < WORTH_A_POOL or not isinstance(samples[0].content, Path):
        yield from map(run_chunk, chunks)
        return
    # forkserver: neither torch's threads nor Ray's connections are there to be forked.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imgrec.data.decode"])
    with ProcessPoolExecutor(
        min(workers, len(chunks)), mp_context=context, initializer=_ignore_interrupts
    ) as pool:
        try:
            yield from pool.map(run_chunk, chunks)
        finally:
            pool.shutdown(cancel_futures=True)


def _run_chunk(
    function: Callable[..., Result], args: tuple[Any, ...], chunk: Sequence[Sample]
) -> list[Result]:
    return [function(sample, *args) for sample in chunk]


def _ignore_interrupts() -> None:
    # Ctrl-C reaches every process of the terminal; only the one that waits for us answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
