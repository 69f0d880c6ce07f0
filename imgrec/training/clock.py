"""Where the time of training goes.

On a CPU the work is done when a call returns. A GPU works behind it: there, events in its own queue
tell how long it was busy, and what is left of an epoch it waited, for data or for the next command.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

import torch

Item = TypeVar("Item")
DATA, MODEL, OPTIMIZER, EVALUATION = "data", "model", "optimizer", "evaluation"
REPORT, OTHER, ANSWERING = "report", "other", "answering"
ON_DEVICE = frozenset({MODEL, OPTIMIZER, EVALUATION})
"""Kinds of work that run on the GPU, if there is one; the others run on the host."""


class Clock:
    """Adds up seconds by kind of work, until they are taken.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._of_gpu = ON_DEVICE if device.type == "cuda" else frozenset[str]()
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._began = time.perf_counter()

    def on(self, kind: str) -> "_Stretch":
        """For a `with`: what is done inside is of this kind."""
        return _Stretch(self, kind)

    def each(self, kind: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items, where to wait for the next is of this kind."""
        waiting = iter(items)
        while True:
            started = time.perf_counter()
            try:
                item = next(waiting)
            except StopIteration:
                return
            finally:
                self._seconds[kind] += time.perf_counter() - started
            yield item

    def take(self) -> dict[str, float]:
        """Seconds since the last call by kind, with what was of none; they add up to the time."""
        now = time.perf_counter()
        whole, self._began = now - self._began, now
        seconds, self._seconds = self._seconds, defaultdict(float)
        if self._of_gpu:
            torch.cuda.synchronize()
            for kind, start, end in self._events:
                seconds[kind] += start.elapsed_time(end) / 1000
            self._events.clear()
            # While the GPU computes the host may prepare the next batch: that is no waiting.
            busy = sum(spent for kind, spent in seconds.items() if kind != DATA)
            seconds[DATA] = min(seconds[DATA], max(0.0, whole - busy))
        return dict(seconds) | {OTHER: max(0.0, whole - sum(seconds.values()))}

    def _start(self, kind: str) -> "float | torch.cuda.Event":
        if kind in self._of_gpu:
            return _event()
        return time.perf_counter()

    def _stop(self, kind: str, start: "float | torch.cuda.Event") -> None:
        if isinstance(start, float):
            self._seconds[kind] += time.perf_counter() - start
            return
        self._events.append((kind, start, _event()))


def _event() -> torch.cuda.Event:
    """Now, in the queue of the GPU."""
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


class _Stretch:
    """The context of `Clock.on`; a class, for a generator would be slower and it is entered often."""

    __slots__ = ("_clock", "_kind", "_start")

    def __init__(self, clock: Clock, kind: str) -> None:
        self._clock, self._kind = clock, kind

    def __enter__(self) -> Self:
        self._start = self._clock._start(self._kind)  # noqa: SLF001 - a part of it
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clock._stop(self._kind, self._start)  # noqa: SLF001 - a part of it
