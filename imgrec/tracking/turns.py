"""One process at a time, of all that use the same record: of two that begin the same run, one begins it."""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from imgrec.errors import TrackingError
from imgrec.machine import locked
from imgrec.tracking.connection import Tracking, experiment_id
from imgrec.tracking.liveness import (
    SECONDS_BETWEEN_HEARTBEATS,
    SILENCE_OF_THE_DEAD,
    owner_of,
    process_is_alive,
)
from imgrec.tracking.place import SQLITE
from imgrec.tracking.tags import QUEUE

DRAWING = 0
POLL_SECONDS = 0.2
MOST_SECONDS = 120.0


@contextmanager
def one_at_a_time(tracking: Tracking, experiment: str, key: str) -> Iterator[None]:
    """Only one process is inside for a key, of all that use this record.

    For an SQLite file the system decides, by a lock. A server's API has neither locks nor a way to write a value
    only where none is, so processes queue as in a bakery: each writes that it draws a number, draws one above
    all that it sees, and waits for whoever draws at that moment and for all smaller ones. That holds as long
    as whoever reads sees what was written before. One that dies inside is passed over: at once on this
    machine, elsewhere when it has been silent for SILENCE_OF_THE_DEAD, by the clock of whoever waits.

    Source: Lamport 1974, "A new solution of Dijkstra's concurrent programming problem".

    Raises:
        TrackingError: another process stays inside for too long.
    """
    if tracking.is_local:
        with locked(Path(tracking.uri.removeprefix(SQLITE) + ".begin")):
            yield
        return
    queue = _Queue(tracking, experiment_id(tracking, experiment), key)
    with _Ticket(queue) as ticket:
        ticket.write(1 + max(queue.numbers().values(), default=DRAWING))
        deadline = time.monotonic() + MOST_SECONDS
        while any(ticket.is_behind(other, name) for name, other in queue.numbers().items()):
            if time.monotonic() > deadline:
                msg = f"{tracking.uri}: another process has been beginning the same run for too long; try again"
                raise TrackingError(msg)
            time.sleep(POLL_SECONDS)
        yield


class _Queue:
    """Those who want to be inside for a key: a tag of the experiment for each."""

    def __init__(self, tracking: Tracking, experiment: str, key: str) -> None:
        self.tracking = tracking
        self.experiment = experiment
        self.prefix = f"{QUEUE}.{key}."
        self._seen: dict[str, tuple[str, float]] = {}

    def numbers(self) -> dict[str, int]:
        """The numbers of those who live, by tag; the tags of others are removed."""
        with self.tracking.answering():
            tags = self.tracking.client.get_experiment(self.experiment).tags
        number_of = {}
        for name, text in tags.items():
            if not name.startswith(self.prefix):
                continue
            number, _, rest = text.partition(" ")
            if number.isdecimal() and self._is_alive(name, text, rest.partition(" ")[2]):
                number_of[name] = int(number)
            else:
                self.leave(name)
        return number_of

    def _is_alive(self, name: str, text: str, owner: str) -> bool:
        """On another machine: its tag has changed of late. No clock but ours is asked."""
        alive = process_is_alive(owner)
        if alive is not None:
            return alive
        now = time.monotonic()
        if self._seen.get(name, ("", 0.0))[0] != text:
            self._seen[name] = text, now
        return now - self._seen[name][1] < SILENCE_OF_THE_DEAD

    def write(self, name: str, text: str) -> None:
        """Set a tag."""
        with self.tracking.answering():
            self.tracking.client.set_experiment_tag(self.experiment, name, text)

    def leave(self, name: str) -> None:
        """Remove a tag, also one that another has removed already."""
        with contextlib.suppress(TrackingError), self.tracking.answering():
            self.tracking.client.delete_experiment_tag(self.experiment, name)


class _Ticket:
    """This process's place in a queue; while it is held its tag changes, so that others see that it lives."""

    def __init__(self, queue: _Queue) -> None:
        self._queue = queue
        self._name = f"{queue.prefix}{uuid.uuid4().hex}"
        self._owner = owner_of(os.getpid())
        self._number = DRAWING
        self._beats = 0
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="ticket")

    def __enter__(self) -> Self:
        self.write(DRAWING)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._queue.leave(self._name)

    def write(self, number: int) -> None:
        """Hold this number."""
        with self._writing:
            self._number = number
            self._beats += 1
            self._queue.write(self._name, f"{number} {self._beats} {self._owner}")

    def is_behind(self, other: int, name: str) -> bool:
        """Whether another, with this number and tag, comes before this one."""
        if name == self._name:
            return False
        return other == DRAWING or (other, name) < (self._number, self._name)

    def _beat(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_HEARTBEATS):
            # Whether MLflow answers is for those to say who have something to record.
            with contextlib.suppress(TrackingError):
                self.write(self._number)
