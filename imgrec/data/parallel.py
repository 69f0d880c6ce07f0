"""Decoding over all cores, in processes of its own, which may take so much time and memory for a picture.

A decoder of untrusted bytes may hang or crash, and cannot be interrupted from within its process. So it runs
in a process that the system ends: a picture that takes too long, or crashes its decoder, has that as its
reason, and the others go on. The processes end with whoever started them, by a pipe that closes. They are plain
subprocesses that import neither torch nor the caller's script.
"""

import atexit
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar

from imgrec.data.content import Content, InMemoryPixels, Missing
from imgrec.errors import DataError, DecodeError, ImgrecError, disk_failure
from imgrec.machine import (
    SOME_KEPT,
    available_cores,
    collect_seldom,
    limit_memory,
    module_paths,
)

Result = TypeVar("Result")
MOST_CHUNK, LEAST_CHUNK = 256, 16
CHUNKS_A_PROCESS = 4
# Chunks on their way at a time, for each process: enough to keep it busy, few enough for memory.
AHEAD = 3
MOST_SECONDS = 60
"""Of processor time, for one picture: whatever else the machine does."""
MOST_MEMORY = 4 << 30
"""Bytes that a decoding process may hold."""
TOO_LARGE = f"takes more than {MOST_MEMORY >> 30} GiB of memory to decode"
MEMORY_STATUS = 77
"""A decoding process ends with it where it cannot have the memory that it needs."""
MOST_AHEAD = 4
"""Processes that are started before it is known how many pictures there are."""
IDLE_SECONDS = 60
"""After which a decoding process that nobody asks for anything ends."""
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})
A_WEEK = 7 * 24 * 3600
ENTRY = "import sys; from imgrec.data.parallel import serve; serve(*map(int, sys.argv[1:]))"


def map_in_chunks(
    function: Callable[..., Result],
    contents: Sequence[Any],
    *args: Any,
    workers: int,
    most_chunk: int = MOST_CHUNK,
) -> Iterator[Result]:
    """`function(start, contents[start : end], *args)` for all of them, in order.

    Args:
        function: Defined at the top of a module, so that other processes can import it. It decodes each picture
            inside `within_limits`, and takes a `Missing` in place of what broke its process.
        contents: What to work on: a `Content` each, or anything else that can travel.
        args: Passed on to each call.
        workers: Processes to use; 0 means one a core.
        most_chunk: Contents that one call is given at most.

    Raises:
        DataError: the system has ended a process, for want of memory.
    """
    workers = workers or available_cores()
    size = min(most_chunk, max(LEAST_CHUNK, -(-len(contents) // (CHUNKS_A_PROCESS * workers))))
    chunks = deque(
        (start, contents[start : start + size]) for start in range(0, len(contents), size)
    )
    if not contents or isinstance(contents[0], InMemoryPixels):
        for start, some in chunks:
            yield function(start, some, *args)
        return
    with _decoders(min(workers, len(chunks))) as decoders:
        yield from _in_order(decoders, chunks, function, args, AHEAD * workers * size)


def _in_order(
    decoders: "list[_Decoder]",
    chunks: deque[tuple[int, Sequence[Content]]],
    function: Callable[..., Result],
    args: tuple[Any, ...],
    most_ahead: int,
) -> Iterator[Result]:
    position = 0
    came: dict[int, tuple[int, Result]] = {}
    while chunks or came or any(decoder.chunk for decoder in decoders):
        for decoder in decoders:
            if not decoder.chunk and chunks and chunks[0][0] - position < most_ahead:
                decoder.give(function, chunks.popleft(), args)
        busy = {decoder.pipe: decoder for decoder in decoders if decoder.chunk}
        for pipe in wait(list(busy)):
            decoder = busy[pipe]  # type: ignore[index]
            start, some = decoder.take_chunk()
            try:
                came[start] = len(some), decoder.answer()
            except EOFError:
                reason = decoder.replace(some)
                if not reason:
                    chunks.appendleft((start, some))
                elif len(some) > 1:  # one by one, to see which it was
                    chunks.extendleft((start + n, [one]) for n, one in reversed([*enumerate(some)]))
                else:
                    chunks.appendleft((start, [Missing(reason)]))
        while position in came:
            count, result = came.pop(position)
            position += count
            yield result


class _Decoder:
    """A decoding process, and the chunk that it works on."""

    def __init__(self, seconds: int, idle_seconds: int) -> None:
        self.chunk: tuple[int, Sequence[Content]] | None = None
        self._seconds, self._idle_seconds = seconds, idle_seconds
        self._start()

    def _start(self) -> None:
        self.pipe, theirs = Pipe()
        self.has_waited = False
        numbers = (theirs.fileno(), self._seconds, self._idle_seconds)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-P", "-c", ENTRY, *map(str, numbers)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={
                    **os.environ,
                    **SOME_KEPT,
                    "PYTHONPATH": os.pathsep.join(module_paths()),
                    "OMP_NUM_THREADS": "1",
                },
                # Ctrl-C reaches every process of a terminal's group; only the one that waits answers it.
                start_new_session=True,
            )

    def give(
        self,
        function: Callable[..., Any],
        chunk: tuple[int, Sequence[Content]],
        args: tuple[Any, ...],
    ) -> None:
        """Let it begin with a chunk."""
        self.chunk = chunk
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `answer` will say so
            self.pipe.send((function, *chunk, args))

    def take_chunk(self) -> tuple[int, Sequence[Content]]:
        """What it worked on until now."""
        assert self.chunk is not None
        chunk, self.chunk = self.chunk, None
        return chunk

    def answer(self) -> Any:
        """What came of the chunk.

        Raises:
            EOFError: the process has ended.
        """
        try:
            result, error = self.pipe.recv()
        except OSError as gone:  # it ended while it was writing
            raise EOFError from gone
        self.has_waited = True
        if error is not None:
            raise error
        return result

    def replace(self, contents: Sequence[Content]) -> str:
        """Another process in place of one that has ended; what that says of the contents, if anything.

        Raises:
            DataError: it says nothing of them.
        """
        self.pipe.close()
        status, waited = self._process.wait(), self.has_waited
        if status and isinstance(contents[0], Missing):
            msg = f"a decoding process ends without work (status {status})"
            raise RuntimeError(msg)
        fault = ""
        if -status == signal.SIGPROF:
            fault = f"takes more than {self._seconds} s to decode"
        elif status == MEMORY_STATUS:
            fault = TOO_LARGE
        elif -status in CRASHES:
            fault = "crashes its decoder"
        elif -status == signal.SIGKILL:
            msg = (
                f"the system ended the process that decoded {contents[0]}: it is out of memory; set "
                f"data.decode_workers to fewer processes"
            )
            raise DataError(msg)
        elif status or not waited:  # else it had been idle too long just when it was asked
            msg = f"a decoding process ended with status {status}"
            raise RuntimeError(msg)
        self._start()
        return fault

    def is_alive(self) -> bool:
        """Whether its process is."""
        return self._process.poll() is None

    def end(self) -> None:
        """Now, whatever it is at."""
        self.pipe.close()
        self._process.kill()
        self._process.wait()


class OwnDecoder:
    """A decoding process of one's own, for whoever has pictures all the time; `end` ends it."""

    def __init__(self, seconds: int) -> None:
        """Start it.

        Args:
            seconds: Of processor time, for one picture.
        """
        self._decoder = _Decoder(seconds, A_WEEK)

    def map(
        self, function: Callable[..., Result], contents: Sequence[Content], *args: Any
    ) -> Iterator[Result]:
        """What `map_in_chunks` does with one chunk: a content that broke the process comes by itself, as a `Missing`."""
        chunks = deque([(0, contents)])
        return _in_order([self._decoder], chunks, function, args, len(contents))

    def end(self) -> None:
        """Now, whatever it is at."""
        self._decoder.end()


_IDLE: list[_Decoder] = []
"""Those that wait for the next set; to start one takes 0.16 s of a core."""
_LOCK = threading.Lock()
_SERVING: list[int] = []
"""In a process that `serve` runs in: the seconds that a picture may take."""


@contextmanager
def _decoders(count: int) -> Iterator[list[_Decoder]]:
    """So many for the length of the block; those that are idle at its end stay for the next."""
    with _LOCK:
        taken = [_IDLE.pop() for _ in range(min(count, len(_IDLE)))]
    for decoder in taken:
        if not decoder.is_alive():  # ended while it was idle, which says nothing of what is to come
            decoder.end()
    taken = [decoder for decoder in taken if decoder.is_alive()]
    try:
        taken += [_Decoder(MOST_SECONDS, IDLE_SECONDS) for _ in range(count - len(taken))]
        yield taken
    except BaseException:
        # Some are in the middle of a chunk that nobody waits for any more.
        for decoder in taken:
            decoder.end()
        raise
    with _LOCK:
        room = max(0, available_cores() - len(_IDLE))
        _IDLE.extend(taken[:room])
    for decoder in taken[room:]:
        decoder.end()


def start_decoders(workers: int) -> None:
    """Let processes come up that the next set takes: so many, 0 means one a core, but a few where few may be enough."""
    with _LOCK:
        wanted = min(workers or available_cores(), MOST_AHEAD)
        for _ in range(wanted - len(_IDLE)):
            decoder = _Decoder(MOST_SECONDS, IDLE_SECONDS)
            decoder.has_waited = True
            _IDLE.append(decoder)


@atexit.register
def end_decoders() -> None:
    """End the processes that wait, and give their memory back."""
    with _LOCK:
        while _IDLE:
            _IDLE.pop().end()


def serve(file: int, most_seconds: int, idle_seconds: int) -> None:
    """What a decoding process does: chunk after chunk, until nobody is there to ask.

    Args:
        file: Its end of a pipe.
        most_seconds: Of processor time, for one picture.
        idle_seconds: After so many without a chunk it ends.
    """
    _SERVING.append(most_seconds)
    collect_seldom()
    limit_memory(MOST_MEMORY)
    threading.Thread(target=_end_with, args=(file,), daemon=True).start()
    with Connection(file) as pipe:
        while pipe.poll(idle_seconds):
            try:
                function, start, contents, args = pipe.recv()
                pipe.send(_answer_to(function, start, contents, args))
            except (EOFError, OSError):
                return
            except MemoryError:
                os._exit(MEMORY_STATUS)


def _answer_to(function: Callable[..., Any], *args: Any) -> tuple[Any, Exception | None]:
    start, contents, others = args
    try:
        return function(start, contents, *others), None
    except ImgrecError as error:
        return None, error
    except MemoryError:
        raise
    except Exception as error:
        bug = RuntimeError(f"in a decoding process:\n{traceback.format_exc()}")
        return None, disk_failure(error) or bug


def _end_with(file: int) -> None:
    """End this process with the one at the other end of its pipe, also in the middle of a picture."""
    poll = select.poll()
    poll.register(file, 0)  # nothing but that it was hung up
    poll.poll()
    os._exit(1)


class within_limits:  # noqa: N801 - used as a function is; contextlib's would take twice the time
    """One picture is decoded inside, in a process that `map_in_chunks` started or in another.

    Raises:
        DecodeError: it wants more memory than a picture may have.
    """

    def __enter__(self) -> None:
        if _SERVING:
            # What SIGPROF does where nobody handles it: it ends the process.
            signal.setitimer(signal.ITIMER_PROF, _SERVING[0])

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if _SERVING:
            signal.setitimer(signal.ITIMER_PROF, 0)
            if isinstance(error, MemoryError):
                raise DecodeError(TOO_LARGE) from error
