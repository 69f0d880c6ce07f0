"""Whether the process that records a run still lives: one that was killed cannot say so itself."""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from imgrec.errors import TrackingError
from imgrec.machine import birth_of, locked
from imgrec.tracking.connection import Tracking, experiment_id
from imgrec.tracking.place import SQLITE
from imgrec.tracking.runs import Run, RunRecord, find_run, find_runs, set_status

OWNER = "imgrec.owner"
HEARTBEAT = "imgrec.heartbeat"
SECONDS_BETWEEN_HEARTBEATS = 15.0
QUEUE = "imgrec.begin"
DRAWING = 0
QUEUE_POLL_SECONDS = 0.2
MOST_QUEUE_SECONDS = 120.0
SILENCE_OF_THE_DEAD = 4 * SECONDS_BETWEEN_HEARTBEATS


@contextmanager
def heartbeat(run: Run) -> Iterator[None]:
    """Say inside that this process lives, for others who see the record, on other machines too.

    The run is to bear `owner_tags` from its first moment.
    """
    over = threading.Event()

    def beat() -> None:
        while not over.wait(SECONDS_BETWEEN_HEARTBEATS):
            # Whether MLflow answers is for those to say who have something to record.
            with contextlib.suppress(TrackingError):
                run.set_tags({HEARTBEAT: int(time.time())})

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1)


def owner_tags() -> dict[str, str]:
    """Who records a run: this process, as of now."""
    return {OWNER: owner_of(os.getpid()), HEARTBEAT: str(int(time.time()))}


def is_alive(record: RunRecord) -> bool:
    """Whether the process that records this workflow still does.

    On this machine its process tells; on another one how long it has been silent.
    """
    if record.status != "RUNNING":
        return False
    return owner_is_alive(record.tags.get(OWNER, ""), record.tags.get(HEARTBEAT, ""))


def owner_is_alive(owner: str, heartbeat: str) -> bool:
    """The same of what `owner_tags` wrote; what others wrote in their place is nobody's."""
    host, _, rest = owner.partition(" ")
    pid, _, birth = rest.partition(" ")
    if host == socket.gethostname():
        is_number = pid.isdecimal() and len(pid) < 10
        return is_number and bool(birth) and birth_of(int(pid)) == birth
    return heartbeat.isdecimal() and time.time() - int(heartbeat) < SILENCE_OF_THE_DEAD


@contextmanager
def one_at_a_time(tracking: Tracking, experiment: str, key: str) -> Iterator[None]:
    """Only one process is inside for a key, of all that use this record.

    For an SQLite file the system decides, by a lock. A server's API has neither locks nor a way to write a value
    only where none is, so processes queue as in a bakery: each writes that it draws a number, draws one above
    all that it sees, and waits for whoever draws at that moment and for all smaller ones. That holds as long
    as whoever reads sees what was written before. One that dies inside is passed over: at once on this
    machine, elsewhere after SILENCE_OF_THE_DEAD.

    Source: Lamport 1974, "A new solution of Dijkstra's concurrent programming problem".

    Raises:
        TrackingError: another process stays inside for too long.
    """
    if tracking.is_local:
        with locked(Path(tracking.uri.removeprefix(SQLITE) + ".begin")):
            yield
        return
    place = experiment_id(tracking, experiment)
    mine = f"{QUEUE}.{key}.{uuid.uuid4().hex}"
    client, owner = tracking.client, owner_of(os.getpid())

    def write(number: int) -> None:
        with tracking.answering():
            client.set_experiment_tag(place, mine, f"{number} {int(time.time())} {owner}")

    write(DRAWING)
    try:
        drawn = [number for number, _ in _queue(tracking, place, key).values()]
        number = 1 + max(drawn, default=DRAWING)
        write(number)
        deadline = time.monotonic() + MOST_QUEUE_SECONDS
        while any(
            alive and (other == DRAWING or (other, name) < (number, mine))
            for name, (other, alive) in _queue(tracking, place, key).items()
            if name != mine
        ):
            if time.monotonic() > deadline:
                msg = f"{tracking.uri}: another process has been beginning the same run for too long; try again"
                raise TrackingError(msg)
            time.sleep(QUEUE_POLL_SECONDS)
        yield
    finally:
        with tracking.answering():
            client.delete_experiment_tag(place, mine)


def _queue(tracking: Tracking, place: str, key: str) -> dict[str, tuple[int, bool]]:
    """Who stands in the queue for a key: the number of each, and whether its process lives."""
    with tracking.answering():
        tags = tracking.client.get_experiment(place).tags
    found = {}
    for name, text in tags.items():
        if name.startswith(f"{QUEUE}.{key}."):
            number, _, rest = text.partition(" ")
            heartbeat, _, owner = rest.partition(" ")
            if number.isdecimal():
                found[name] = int(number), owner_is_alive(owner, heartbeat)
    return found


def close_dead_runs(tracking: Tracking) -> None:
    """Mark as KILLED what says RUNNING though its process is dead, with all that stands below it."""
    for kind in ("workflow", "tune"):
        for workflow in find_runs(tracking, {"imgrec.kind": kind}, status="RUNNING"):
            if not is_alive(workflow):
                _close(tracking, workflow)


def is_at_work(tracking: Tracking, record: RunRecord) -> bool:
    """Whether another process is at work on this run, as part of its workflow."""
    parent = find_run(tracking, record.tags.get(MLFLOW_PARENT_RUN_ID, ""))
    return (
        record.status == "RUNNING"
        and parent is not None
        and is_alive(parent)
        and parent.tags.get(OWNER) != owner_of(os.getpid())
    )


def refuse_alive(record: RunRecord) -> None:
    """Raise TrackingError if another process is at work on this run."""
    if is_alive(record) and record.tags.get(OWNER) != owner_of(os.getpid()):
        host, pid = record.tags[OWNER].split()[:2]
        msg = (
            f"the same run is going on already, as process {pid} on {host} (MLflow run "
            f"{record.id}): wait for it, stop it, or start another with --fresh"
        )
        raise TrackingError(msg)


def _close(tracking: Tracking, record: RunRecord) -> None:
    for child in find_runs(tracking, {}, parent=record.id, status="RUNNING"):
        _close(tracking, child)
    set_status(tracking, record, "KILLED")


def owner_of(pid: int) -> str:
    """A process of this machine. Its number is given out again; with its birth it is unique."""
    return f"{socket.gethostname()} {pid} {birth_of(pid)}"
