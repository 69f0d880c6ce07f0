"""The connection to MLflow: one place at a time, and errors for people."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from imgrec.classifier import Classifier
from imgrec.config import TrackingConfig
from imgrec.data.decode import encode_png
from imgrec.data.store import Store
from imgrec.errors import TrackingError
from imgrec.tracking import connection
from imgrec.tracking.connection import Tracking, connect
from imgrec.tracking.query import find_runs
from imgrec.tracking.registry import register
from imgrec.tracking.runs import start_run
from imgrec.tracking.versions import list_versions
from tests.integration.tracking.made import NOTHING, tags


def test_two_places_do_not_mix(
    tracking: Tracking, classifier: Classifier, digits: Store, tmp_path: Path
) -> None:
    """MLflow remembers where it registered last, in globals and in the environment; we do not."""
    with start_run(tracking, "places", "run", {}) as run:
        register(run, "placed-ann", classifier, encode_png(digits.images[0]), tags(0.9), NOTHING)
    other = connect(TrackingConfig(), tmp_path, create=True)

    assert "placed-ann" in {v.name for v in list_versions(tracking)[0]}
    assert list_versions(other) == ([], 0)
    assert not [name for name in os.environ if name.startswith("MLFLOW_") and "URI" in name]


def test_several_processes_may_make_the_database_at_once(tmp_path: Path) -> None:
    """MLflow's own first use races, and leaves a database that nobody can use."""
    code = (
        "import sys; from pathlib import Path; from imgrec.config import TrackingConfig; "
        "from imgrec.tracking.connection import connect; "
        "connect(TrackingConfig(), Path(sys.argv[1]), create=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "mlruns")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate()[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], errors


def test_an_interrupt_waits_for_the_end_of_a_transaction(tracking: Tracking) -> None:
    """In the middle it would leave the file locked, for the 20 s that MLflow gives a lock."""
    seen = []
    try:
        with tracking.answering():
            signal.raise_signal(signal.SIGINT)
            seen.append("the rest of the transaction")
    except KeyboardInterrupt:
        seen.append("interrupted")

    assert seen == ["the rest of the transaction", "interrupted"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_broken_database_is_an_error_for_people(tmp_path: Path) -> None:
    """Not a traceback of three libraries."""
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, but long enough to be read" * 50)

    with pytest.raises(TrackingError, match="MLflow cannot use it"):
        connect(TrackingConfig(), tmp_path, create=True)


def test_a_deleted_experiment_is_not_written_to(tracking: Tracking) -> None:
    """MLflow keeps its name and would refuse in ten lines."""
    with start_run(tracking, "gone", "run", {}) as run:
        experiment = tracking.client.get_run(run.id).info.experiment_id
    tracking.client.delete_experiment(experiment)

    with pytest.raises(TrackingError, match="was deleted"), start_run(tracking, "gone", "r", {}):
        pass
    with pytest.raises(MlflowException):
        tracking.client.create_experiment("gone")


@contextmanager
def another_program_holds(file: Path) -> Iterator[sqlite3.Connection]:
    """The exclusive lock of an SQLite file."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


def test_what_is_recorded_waits_for_a_program_that_holds_the_lock(tmp_path: Path) -> None:
    """As a backup does, or a person in a viewer; longer than MLflow itself would wait, if need be."""
    tracking = connect(TrackingConfig(), tmp_path, create=True)
    with start_run(tracking, "locked", "one", {}) as run:
        with another_program_holds(tmp_path / "mlflow.db") as other:
            started = time.monotonic()
            thread = threading.Thread(target=run.set_tags, args=({"a": "b"},))
            thread.start()
            thread.join(timeout=1.0)
            assert thread.is_alive()
            other.execute("ROLLBACK")
            thread.join()
        assert time.monotonic() - started >= 1.0
    [record] = find_runs(tracking, {"a": "b"})
    assert record.status == "FINISHED"


def test_a_lock_that_is_held_for_ever_ends_a_run_in_one_line_and_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is closed by whoever comes next, as one whose process died."""
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.5)
    tracking = connect(TrackingConfig(), tmp_path, create=True)
    started = time.monotonic()
    with (  # noqa: PT012 - the lock has to outlive the run
        ExitStack() as stack,
        pytest.raises(TrackingError, match=r"mlflow.db: another program holds its lock") as caught,
        start_run(tracking, "locked", "one", {}) as run,
    ):
        stack.enter_context(another_program_holds(tmp_path / "mlflow.db"))
        run.set_tags({"a": "b"})
    assert time.monotonic() - started < 2
    assert "\n" not in str(caught.value)


def test_a_command_that_begins_does_not_wait_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has been done yet that could be lost."""
    monkeypatch.setattr(connection, "PATIENCE_AT_START_SECONDS", 0.5)
    connect(TrackingConfig(), tmp_path, create=True)
    with (
        another_program_holds(tmp_path / "mlflow.db"),
        pytest.raises(TrackingError, match="end that one"),
    ):
        connect(TrackingConfig(), tmp_path, create=False)
