"""Whether the process that records a run still lives: one that was killed cannot say so itself."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from imgrec.errors import TrackingError
from imgrec.machine import birth_of
from imgrec.tracking.connection import Tracking
from imgrec.tracking.query import RunRecord, find_run, find_runs, set_status
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import DECISION, HEARTBEAT, KIND, OWNER

SECONDS_BETWEEN_HEARTBEATS = 15.0
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
    """The same of what `owner_tags` wrote; a malformed tag counts as dead."""
    alive = process_is_alive(owner)
    if alive is not None:
        return alive
    return heartbeat.isdecimal() and time.time() - int(heartbeat) < SILENCE_OF_THE_DEAD


def owner_host(record: RunRecord) -> str:
    """The machine whose process records this workflow, or did."""
    return record.tags.get(OWNER, "").partition(" ")[0]


def process_is_alive(owner: str) -> bool | None:
    """Whether the process that `owner_of` named is; None where it is on another machine."""
    host, _, rest = owner.partition(" ")
    pid, _, birth = rest.partition(" ")
    if host != socket.gethostname():
        return None
    is_number = pid.isdecimal() and len(pid) < 10
    return is_number and bool(birth) and birth_of(int(pid)) == birth


def close_dead_runs(tracking: Tracking) -> None:
    """Mark as KILLED what says RUNNING though its process is dead, with all that stands below it."""
    for kind in ("workflow", "tune", DECISION):
        for workflow in find_runs(tracking, {KIND: kind}, status="RUNNING"):
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
