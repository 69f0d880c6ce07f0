"""Whether the process that records a run still lives."""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from imgrec.config import TrackingConfig
from imgrec.errors import TrackingError
from imgrec.tracking.connection import connect
from imgrec.tracking.liveness import (
    close_dead_runs,
    heartbeat,
    is_alive,
    owner_is_alive,
    owner_of,
    owner_tags,
    refuse_alive,
)
from imgrec.tracking.query import RunRecord, find_runs
from imgrec.tracking.runs import start_run
from imgrec.tracking.tags import HEARTBEAT, OWNER


@pytest.mark.parametrize(
    ("owner", "beat"),
    [
        ("HERE", "0"),
        ("HERE abc 1", "0"),
        ("HERE 99999999999999 1", "0"),
        ("HERE PID", "0"),
        ("elsewhere 1 1", "soon"),
        ("", ""),
    ],
)
def test_owners_that_others_wrote_are_nobody(owner: str, beat: str) -> None:
    """Not a traceback, and nobody who lives."""
    named = owner.replace("HERE", socket.gethostname()).replace("PID", str(os.getpid()))

    assert not owner_is_alive(named, beat)


def test_a_step_of_the_clock_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspended laptop, or NTP: the time of a process's birth moves, and it was begun twice."""
    written = owner_tags()[OWNER]
    moved = psutil.boot_time() + 5
    for module in (psutil, psutil._psplatform):
        monkeypatch.setattr(module, "boot_time", lambda: moved)
    monkeypatch.setattr(psutil._psplatform, "BOOT_TIME", moved, raising=False)

    assert owner_is_alive(written, "0")


def test_a_run_whose_process_died_is_closed_with_all_below_it(tmp_path: Path) -> None:
    """It cannot say so itself; a living one is left alone, and refuses a second."""
    here = connect(TrackingConfig(), tmp_path, create=True)
    tags = {"imgrec.kind": "workflow"}
    with start_run(here, "dead", "living", tags | owner_tags()) as living, heartbeat(living):
        with start_run(here, "dead", "dead", tags) as dead:
            child = dead.start_child("child", {})
            grandchild = child.start_child("grandchild", {})
            dead.set_tags({OWNER: f"{socket.gethostname()} 1 123", HEARTBEAT: int(time.time())})
            close_dead_runs(here)
            closed = [here.client.get_run(run.id).info.status for run in (dead, child, grandchild)]
        (alive,) = [r for r in find_runs(here, tags, status="RUNNING") if r.id == living.id]
        refuse_alive(alive)  # this very process may go on with it
        others = alive.tags | {OWNER: _owner_of_parent()}

        assert closed == ["KILLED"] * 3
        assert is_alive(alive)
        with pytest.raises(TrackingError, match=r"going on already, as process \d+.*--fresh"):
            refuse_alive(replace(alive, tags=others))


@pytest.mark.parametrize(("silent", "alive"), [(5, True), (300, False)])
def test_on_another_machine_silence_tells(silent: float, alive: bool) -> None:
    """There is no process to look at."""
    tags = {OWNER: "elsewhere 7 123", HEARTBEAT: str(int(time.time() - silent))}
    record = RunRecord("id", "name", "0", "RUNNING", 0.0, tags, {})

    assert is_alive(record) == alive


def _owner_of_parent() -> str:
    return owner_of(os.getppid())
