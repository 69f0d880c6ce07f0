"""A stage: threads, each of which takes what waits, all together, and works on it."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Stage(Generic[Item]):
    """Work for threads. What is put while they are all busy is taken together by the first that is free."""

    def __init__(self, name: str, works: Sequence[Callable[[list[Item]], None]], most: int) -> None:
        """Start a thread for each piece of work.

        Args:
            name: Of the threads.
            works: What each thread does with what it takes; an exception in it is our bug, and ends the process's
                thread with a traceback.
            most: Items that one takes at a time.
        """
        self._waiting: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._most = most
        self._threads = [
            threading.Thread(target=self._run, args=(work,), name=f"{name}-{number}", daemon=True)
            for number, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, item: Item) -> None:
        """Let one of the threads take it."""
        self._waiting.put(item)

    def close(self) -> None:
        """Let the threads end after all that has been put before, without waiting for it."""
        for _ in self._threads:
            self._waiting.put(None)

    def join(self) -> None:
        """Wait until they have ended."""
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[list[Item]], None]) -> None:
        while True:
            items, ends = self._take()
            if items:
                work(items)
            if ends:
                return

    def _take(self) -> tuple[list[Item], bool]:
        """What waits, at least one; and whether this thread is to end after it."""
        first = self._waiting.get()
        if first is None:
            return [], True
        items = [first]
        while len(items) < self._most:
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return items, True
            items.append(item)
        return items, False
