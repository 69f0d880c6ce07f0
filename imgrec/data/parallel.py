"""Work on many contents over all cores."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

from imgrec.data.sources.sample import Content, Pixels

Result = TypeVar("Result")
CHUNK = 256
# Below this many the start of the processes costs more than it saves.
WORTH_A_POOL = 4 * CHUNK
# Chunks on their way at a time, for each process: enough to keep it busy, few enough for memory.
AHEAD = 3


def map_in_chunks(
    function: Callable[..., Result],
    contents: Sequence[Content],
    *args: Any,
    workers: int,
) -> Iterator[Result]:
    """`function(start, contents[start : start + CHUNK], *args)` for all of them, in order.

    Args:
        function: Defined at the top of a module, so that other processes can import it.
        contents: What to work on.
        args: Passed on to each call.
        workers: Processes to use; 0 means one a core.
    """
    starts = range(0, len(contents), CHUNK)
    workers = min(workers or os.cpu_count() or 1, len(starts))
    if workers <= 1 or len(contents) < WORTH_A_POOL or isinstance(contents[0], Pixels):
        for start in starts:
            yield function(start, contents[start : start + CHUNK], *args)
        return
    # forkserver: neither torch's threads nor Ray's connections are there to be forked.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imgrec.data.look"])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupts) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for start in starts:
                some = contents[start : start + CHUNK]
                waiting.append(pool.submit(function, start, some, *args))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    # Ctrl-C reaches every process of the terminal; only the one that waits for us answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
