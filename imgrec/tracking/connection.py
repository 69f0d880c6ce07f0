"""To MLflow: an SQLite file that needs no service, or a tracking server."""

import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from sqlalchemy.exc import SQLAlchemyError

from imgrec.config import TrackingConfig
from imgrec.errors import TrackingError
from imgrec.machine import locked
from imgrec.probe import ask
from imgrec.tracking.place import (
    ARTIFACTS,
    SQLITE,
    follow_move,
    is_half_made,
    make_database,
    set_aside,
)

# Without it the MLflow UI opens an experiment in its view for chat models.
MODEL_TRAINING = {
    "mlflow.experimentKind": "custom_model_development",
    MLFLOW_RUN_NOTE: "Image recognizers, trained by imgrec. The description of a run with models below it says "
    "which of them is better, and its artifact report.html everything else. A run that ends in promoted, refused or "
    "rolled back is a decision about a champion; the champions themselves are in the model registry.",
}
# What the user set. MLflow writes the variables too, whenever it is told where to go.
ENVIRONMENT = {
    name: os.environ.get(name, "") for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
}

# How long another program may hold the lock of an SQLite file. MLflow itself waits 20 s, in a call that
# Ctrl-C does not end.
PATIENCE_SECONDS, PATIENCE_AT_START_SECONDS = 120.0, 10.0
LOCK_POLL_SECONDS = 0.1
LONGEST_REASON = 200
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tracking:
    """An MLflow that answers.

    Attributes:
        uri: `sqlite:////...` or `http://...`.
        registry: Where its models are registered: the same, unless MLFLOW_REGISTRY_URI was set.
        client: Talks to both.
        artifacts: Where the artifacts of new experiments go; empty where the server decides.
        note: What was done to open it, for people; mostly empty.
        gave_up: Set where it was waited for in vain: what is recorded after that is not waited for again.
    """

    uri: str
    registry: str
    client: MlflowClient
    artifacts: str
    note: str = ""
    gave_up: threading.Event = field(default_factory=threading.Event, compare=False)

    def use(self) -> None:
        """Point MLflow's own functions here; they know one place at a time, for the process."""
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.registry)
        # It also writes variables, which processes that we start would take for the user's wish.
        for name, value in ENVIRONMENT.items():
            os.environ.pop(name, None)
            if value:
                os.environ[name] = value

    @contextmanager
    def answering(self) -> Iterator[None]:
        """What MLflow refuses, or does not answer to, inside is a TrackingError."""
        if self.is_local:
            try:
                wait = 0.0 if self.gave_up.is_set() else PATIENCE_SECONDS
                _wait_for_lock(Path(self.uri.removeprefix(SQLITE)), wait)
            except TrackingError:
                self.gave_up.set()
                raise
            self.gave_up.clear()
        try:
            with _uninterrupted() if self.is_local else nullcontext():
                yield
        except (MlflowException, SQLAlchemyError, requests.RequestException) as error:
            msg = f"MLflow at {self.uri}: {_first_line(error)}"
            raise TrackingError(msg) from error

    @property
    def is_local(self) -> bool:
        """Whether it is a file of this machine."""
        return self.uri.startswith(SQLITE)


def tracking_uri(config: TrackingConfig, storage: Path) -> str:
    """The address that the settings, the environment, or the folder of the run give."""
    if uri := config.uri or ENVIRONMENT["MLFLOW_TRACKING_URI"]:
        return uri
    return f"{SQLITE}{storage / 'mlflow.db'}"


def refuse_local_record(config: TrackingConfig, storage: Path) -> None:
    """Raise TrackingError where the record is a file that only one machine of a cluster sees."""
    uri = tracking_uri(config, storage)
    if not uri.startswith(("http://", "https://")):
        msg = (
            f"tracking.uri = {uri!r}: only one machine sees it; on a cluster set a server: "
            f"tracking.uri=http://MLFLOW:5000"
        )
        raise TrackingError(msg)


def has_record(config: TrackingConfig, storage: Path) -> bool:
    """Whether there is anything to connect to: False for an SQLite file that is not there yet."""
    uri = tracking_uri(config, storage)
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists()


def connect(config: TrackingConfig, storage: Path, *, create: bool) -> Tracking:
    """Connect to MLflow and make sure that it answers.

    Args:
        config: Where it is.
        storage: Folder of the run, for the default SQLite file and its artifacts.
        create: Make a missing SQLite file; False for those who only read.

    Raises:
        TrackingError: no answer, or no such file.
    """
    uri = tracking_uri(config, storage)
    if uri.startswith(("http://", "https://")):
        _refuse_silence(uri, config.timeout_seconds)
    elif uri.startswith(SQLITE):
        file = Path(uri.removeprefix(SQLITE))
        if not file.exists() and not create:
            msg = f"{file}: nothing has been recorded there yet; start with imgrec run"
            raise TrackingError(msg)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"tracking.uri = {uri!r}: {file.parent} cannot be made ({error.strerror})"
            raise TrackingError(msg) from error
    elif "://" not in uri:
        msg = (
            f"tracking.uri = {uri!r}: neither a server (http://...) nor a database "
            f"(sqlite:////path/mlflow.db)"
        )
        raise TrackingError(msg)
    # Told, since MLflow would take the registry that it was last told of, in this process or by
    # the variable.
    registry = ENVIRONMENT["MLFLOW_REGISTRY_URI"] or uri
    local = uri.startswith(SQLITE)
    artifacts = (storage / ARTIFACTS).as_uri() if local else ""
    try:
        with _alone(uri):
            note = ""
            if local:
                file = Path(uri.removeprefix(SQLITE))
                _wait_for_lock(file, PATIENCE_AT_START_SECONDS)
                note = _open_file(file, storage, create=create)
            client = MlflowClient(uri, registry)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        msg = f"tracking.uri = {uri!r}: MLflow cannot use it: {_first_line(error)}"
        raise TrackingError(msg) from error
    return Tracking(uri, registry, client, artifacts, note)


def _open_file(file: Path, storage: Path, *, create: bool) -> str:
    """See to it that an SQLite file is there, whole, and knows where its artifacts are; what was done."""
    note = ""
    if file.exists() and is_half_made(file):
        if not create:
            msg = f"{file}: is half made, by a process that was killed; imgrec run makes it anew"
            raise TrackingError(msg)
        set_aside(file)
        note = f"{file}: was half made, by a run that was killed; a new one is made"
    if not file.exists():
        make_database(file)
        return note
    return follow_move(file) if file.parent == storage else note


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time on this machine: two that make the same SQLite file leave it broken."""
    if not uri.startswith(SQLITE):
        yield
        return
    with locked(Path(uri.removeprefix(SQLITE) + ".lock")):
        yield


def _wait_for_lock(file: Path, seconds: float) -> None:
    """Wait until no other program holds the lock of an SQLite file.

    Raises:
        TrackingError: one still did after so many seconds.
    """
    deadline = time.monotonic() + seconds
    waits = False
    while _is_locked(file):
        if time.monotonic() >= deadline:
            msg = (
                f"{file}: another program holds its lock, after {seconds:.0f} s still; end that one, and "
                f"the same command goes on from there"
            )
            raise TrackingError(msg)
        if not waits:
            log.warning("%s: another program holds its lock; waiting", file)
            waits = True
        time.sleep(LOCK_POLL_SECONDS)


def _is_locked(file: Path) -> bool:
    """Whether a write to an SQLite file would have to wait. What else is wrong MLflow's own call says."""
    try:
        uri = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    except sqlite3.DatabaseError:
        pass
    return False


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block.

    In the middle of a transaction they would leave the SQLite file locked, and whoever marks the
    runs as killed would wait the 20 s that MLflow gives a lock.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: waiting.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if waiting:
        signal.raise_signal(waiting[0])


def experiment_id(tracking: Tracking, name: str) -> str:
    """The experiment of that name, made if need be.

    Raises:
        TrackingError: it was deleted, and MLflow keeps the name.
    """
    with tracking.answering():
        experiment = tracking.client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return tracking.client.create_experiment(
                    name, tracking.artifacts or None, tags=MODEL_TRAINING
                )
            except MlflowException:
                # Another run may have made it in between.
                experiment = tracking.client.get_experiment_by_name(name)
                if experiment is None:
                    raise
    if experiment.lifecycle_stage == "deleted":
        msg = f"tracking.experiment = {name!r}: was deleted; restore it, or choose another name"
        raise TrackingError(msg)
    return str(experiment.experiment_id)


def _refuse_silence(uri: str, timeout_seconds: int) -> None:
    """Ask the server for its health: MLflow's own calls would try again for minutes."""
    answer = ask(f"{uri.rstrip('/')}/health", timeout_seconds)
    # Where it answers otherwise, MLflow's own call says what is wrong.
    if answer.status not in {200, 401, 403, 404}:
        msg = (
            f"tracking.uri = {uri!r}: no MLflow server answers there ({answer.reason}); start it or "
            f"unset it"
        )
        raise TrackingError(msg)


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    # Some of MLflow's own are a paragraph, of which the first sentence says what is wrong.
    return line if len(line) <= LONGEST_REASON else line.partition(". ")[0][:LONGEST_REASON]
