"""The actor behind a `Mailbox`: a process of its own, which imports nothing.

Messages are bytes to it: to unpickle them it would have to import torch, which takes 3 s of a core at
every start.
"""

from collections import Counter


class MailboxActor:
    """Messages from many workers to one driver, by lane. Runs in a process of its own."""

    def __init__(self) -> None:
        self._messages: dict[str, list[bytes]] = {}
        self._abandoned: set[str] = set()
        self._starts: Counter[str] = Counter()
        self._workers: dict[str, int] = {}
        self._errors: dict[str, str] = {}
        self._places: dict[str, bytes] = {}
        self._excused: dict[str, set[int]] = {}
        self._ran_out: dict[str, set[int]] = {}
        self._kills: dict[tuple[str, str], int] = {}
        self._current: dict[str, str] = {}

    def put(self, lane: str, message: bytes) -> None:
        """Add a message."""
        self._messages.setdefault(lane, []).append(message)

    def drain(self, lane: str) -> list[bytes]:
        """All messages since the last call, in the order in which they came."""
        return self._messages.pop(lane, [])

    def abandon(self, lane: str) -> None:
        """Remember that this lane, or this model of it, is not to be tried again."""
        self._abandoned.add(lane)

    def note_place(self, lane: str, place: bytes) -> None:
        """Remember where the workers of a lane were started."""
        self._places[lane] = place

    def place(self, lane: str) -> bytes:
        """What `note_place` was told last; empty if nothing."""
        return self._places.get(lane, b"")

    def begin(self, lane: str, workers: int) -> int:
        """So many workers of a lane start, for the first time or again; how often one has died until now.

        A start after one that was excused is no death, nor is one with more workers or with fewer: a
        machine came, or went.
        """
        if self._workers.setdefault(lane, workers) != workers:
            self.excuse(lane)
        self._workers[lane] = workers
        self._starts[lane] += 1
        return self._starts[lane] - 1 - len(self._excused.get(lane, ()))

    def starts(self, lane: str) -> int:
        """How often `begin` was called."""
        return self._starts[lane]

    def excuse(self, lane: str) -> None:
        """The workers of a lane are going to end, and not because one of them died."""
        self._excused.setdefault(lane, set()).add(self._starts[lane])

    def ran_out(self, lane: str, name: str) -> None:
        """Memory ran out while a model was trained. Said by several workers, it counts once."""
        self.excuse(lane)
        self._ran_out.setdefault(f"{lane}/{name}", set()).add(self._starts[lane])

    def note_kills(self, lane: str, node: str, kills: int) -> None:
        """Where the system's count of processes that it killed for want of memory stands on a node.

        Said by every worker before the lane begins: where it has grown since the last start, a worker of that
        start was killed for lack of memory.
        """
        if self._kills.setdefault((lane, node), kills) < kills:
            self._kills[lane, node] = kills
            if lane in self._current:
                self.ran_out(lane, self._current[lane])

    def times_ran_out(self, lane: str, name: str) -> int:
        """How often memory ran out for a model, asked by the workers that are going to train it now."""
        self._current[lane] = name
        return len(self._ran_out.get(f"{lane}/{name}", ()))

    def note_error(self, lane: str, text: str) -> None:
        """Remember what a worker ended with, where it is not told as the lane's failure."""
        self._errors[lane] = text

    def last_error(self, lane: str) -> str:
        """What `note_error` was told last; empty if nothing."""
        return self._errors.get(lane, "")

    def is_abandoned(self, lane: str) -> bool:
        """Whether `abandon` was called."""
        return lane in self._abandoned
