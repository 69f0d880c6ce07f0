"""How much memory a run takes on this machine, and whose it is."""

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping

import psutil

from pipelines.formats import size

LEAST_SECONDS = 1.0
REST = 100
"""Sleep so many times as long as a sample takes (50 to 150 ms with Ray's dozen processes), so that watching
costs under 1 %."""
OWN, WORKERS, DECODERS, RAY = "imgrec", "workers", "decoders", "Ray"
RAYS = ("ray::", "raylet", "gcs_server", "dashboard", "ray/", "imgrec.distributed.head")
TRAINING = ("ray::LoneWorker", "ray::RayTrainWorker", "ray::ImplicitFunc", "ray::_Trial")


class MemoryWatch:
    """Looks now and then, in a thread, at what this process and all below it hold.

    Pages that processes share are divided among them (Linux's proportional set size), so that the sum is
    what the machine has to give. Among them are the pictures as far as they were read: the system
    takes those back where memory is short.
    """

    def __init__(self) -> None:
        self._most: dict[str, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory")
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._done.set()
        self._thread.join()

    def most(self) -> dict[str, int]:
        """Bytes by who held them, at the moment when they were most together."""
        return dict(self._most)

    def _watch(self) -> None:
        pause = 0.0
        while not self._done.wait(pause):
            started = time.perf_counter()
            held = held_by_group()
            if sum(held.values()) > sum(self._most.values()):
                self._most = held
            pause = max(LEAST_SECONDS, REST * (time.perf_counter() - started))


def held_by_group() -> dict[str, int]:
    """Bytes that this process and all below it hold now."""
    own = psutil.Process()
    held: Counter[str] = Counter()
    for process in [own, *own.children(recursive=True)]:
        try:
            held[_group(process)] += _held(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has ended, or is not ours to look at
    return dict(held)


def memory_in_words(held: Mapping[str, int]) -> str:
    """`2.1 GB at most: workers 1.1 GB, Ray 0.6 GB, imgrec 0.4 GB`."""
    parts = sorted(held.items(), key=lambda item: -item[1])
    return f"{size(sum(held.values()))} at most: " + ", ".join(
        f"{name} {size(part)}" for name, part in parts
    )


def _held(process: psutil.Process) -> int:
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", 0) or memory.uss)


def _group(process: psutil.Process) -> str:
    if process.pid == os.getpid():
        return OWN
    command = " ".join(process.cmdline())
    if command.startswith(TRAINING):
        return WORKERS
    return RAY if any(mark in command for mark in RAYS) else DECODERS
