"""MLflow runs.

One for the workflow; below it one for each search and one for each architecture's model; below a
search one for each trial.
"""

import contextlib
import getpass
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import (
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_USER,
)

from imgrec.errors import TrackingError
from imgrec.tracking.connection import Tracking, experiment_id
from imgrec.tracking.query import RunRecord, Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
ITEMS_A_CALL = {"params": 100, "tags": 100, "metrics": 800}


class Run:
    """A run that is being recorded; `end` closes it and whatever is still open below it.

    Attributes:
        tracking: Where.
        id: MLflow's id.
        resumed: Whether an earlier process began it.
    """

    def __init__(
        self, tracking: Tracking, experiment: str, run_id: str, *, resumed: bool = False
    ) -> None:
        self.tracking = tracking
        self.id = run_id
        self.resumed = resumed
        self._experiment = experiment
        self._children: list[Run] = []
        self._open = True

    def start_child(self, name: str, tags: Mapping[str, str]) -> "Run":
        """A run below this one."""
        child = _start(
            self.tracking, self._experiment, name, {**tags, MLFLOW_PARENT_RUN_ID: self.id}
        )
        self._children.append(child)
        return child

    def resume_child(self, record: RunRecord) -> "Run":
        """Go on with a run that did not end, as one below this one."""
        child = _resume(self.tracking, record)
        child.set_tags({MLFLOW_PARENT_RUN_ID: self.id})
        self._children.append(child)
        return child

    def log_params(self, settings: Mapping[str, Any]) -> None:
        """Nested settings as params with dotted names."""
        params = [Param(key, str(value)) for key, value in _flat(settings)]
        self._log(params=params)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Several values at one step, in one call."""
        self.log_history({step: metrics})

    def log_history(
        self, history: Mapping[int, Mapping[str, float]], tags: Mapping[str, Any] | None = None
    ) -> None:
        """The values of several steps, and tags, in one call: all of it arrives, or nothing."""
        now = int(time.time() * 1000)
        self._log(
            metrics=[
                Metric(key, float(value), now, step)
                for step, metrics in history.items()
                for key, value in metrics.items()
            ],
            tags=_tags(tags or {}),
        )

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Several tags, in one call."""
        self._log(tags=_tags(tags))

    def describe(self, text: str) -> None:
        """What the UI shows at the top of the run's page, in Markdown."""
        self.set_tags({MLFLOW_RUN_NOTE: text})

    def log_dict(self, content: Mapping[str, Any], file: str) -> None:
        """JSON or YAML, by the ending of the file's name."""
        with self.tracking.answering():
            self.tracking.client.log_dict(self.id, dict(content), file)

    def log_figure(self, figure: "Figure", file: str) -> None:
        """A picture."""
        with self.tracking.answering():
            self.tracking.client.log_figure(self.id, figure, file)

    def log_table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], file: str) -> None:
        """A table (file ending in .json) that the MLflow UI shows as one.

        MLflow's own log_table would add the rows to those of an earlier try.
        """
        table = {"columns": list(columns), "data": [list(row) for row in rows]}
        entry = {"path": file, "type": "table"}
        client = self.tracking.client
        with self.tracking.answering():
            client.log_dict(self.id, table, file)
            logged = json.loads(
                client.get_run(self.id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]")
            )
            if entry not in logged:
                client.set_tag(self.id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*logged, entry]))

    def log_file(self, path: Path) -> None:
        """A copy of a file."""
        with self.tracking.answering():
            self.tracking.client.log_artifact(self.id, str(path))

    def end(self, status: Status, tags: Mapping[str, Any] | None = None) -> None:
        """Close the run; the first call decides.

        Args:
            status: How it ended.
            tags: What lets others take the run for done. They are written last: a process that dies
                in between leaves a run to go on with, not one that is done and was killed too.
        """
        for child in self._children:
            child.end(status)
        if self._open:
            with self.tracking.answering():
                self.tracking.client.set_terminated(self.id, status)
            self._open = False
            if tags:
                self.set_tags(tags)

    def _log(self, **items: Sequence[Any]) -> None:
        """In one call where MLflow's limits allow."""
        calls = max(-(-len(values) // ITEMS_A_CALL[kind]) for kind, values in items.items())
        for call in range(calls):
            batch = {
                kind: values[call * ITEMS_A_CALL[kind] : (call + 1) * ITEMS_A_CALL[kind]]
                for kind, values in items.items()
            }
            with self.tracking.answering():
                self.tracking.client.log_batch(self.id, **batch)


@contextmanager
def start_run(
    tracking: Tracking,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    resume: RunRecord | None = None,
) -> Iterator[Run]:
    """A run that never stays RUNNING: FINISHED, FAILED after an error, KILLED after Ctrl-C.

    Args:
        tracking: Where.
        experiment: Name of the experiment.
        name: For people.
        tags: Of the run.
        resume: A run that did not end, to go on with instead of a new one.
    """
    if resume:
        run = _resume(tracking, resume)
        run.set_tags(tags)
    else:
        run = _start(tracking, experiment_id(tracking, experiment), name, tags)
    try:
        yield run
    except BaseException as error:
        # Where MLflow itself is gone, what went wrong first is what the user must hear, and now: it
        # was waited for already.
        retry = nullcontext() if not isinstance(error, TrackingError) else _without_retries()
        with retry, contextlib.suppress(TrackingError):
            run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.end("FINISHED")


def user_name() -> str:
    """Who runs this process; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@contextmanager
def _without_retries() -> Iterator[None]:
    kept = os.environ[RETRIES]
    os.environ[RETRIES] = "0"
    try:
        yield
    finally:
        os.environ[RETRIES] = kept


def _start(tracking: Tracking, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
    system = {MLFLOW_USER: user_name(), MLFLOW_SOURCE_NAME: "imgrec"}
    with tracking.answering():
        created = tracking.client.create_run(experiment, run_name=name, tags={**system, **tags})
    return Run(tracking, experiment, created.info.run_id)


def _resume(tracking: Tracking, record: RunRecord) -> Run:
    with tracking.answering():
        tracking.client.update_run(record.id, status="RUNNING")
    return Run(tracking, record.experiment, record.id, resumed=True)


def _tags(tags: Mapping[str, Any]) -> list[RunTag]:
    return [RunTag(key, str(value)) for key, value in tags.items()]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
