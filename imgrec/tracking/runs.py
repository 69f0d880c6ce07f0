"""MLflow runs: one for the workflow, one below it for each architecture."""

import contextlib
import getpass
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME, MLFLOW_USER

from imgrec.errors import TrackingError
from imgrec.tracking.connection import Tracking, experiment_id

Status = Literal["FINISHED", "FAILED", "KILLED"]
PARAMS_A_CALL = 100


class Run:
    """A run that is being recorded; `end` closes it and whatever is still open below it."""

    def __init__(self, tracking: Tracking, experiment: str, run_id: str) -> None:
        self.tracking = tracking
        self.id = run_id
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

    def log_params(self, settings: Mapping[str, Any]) -> None:
        """Nested settings as params with dotted names."""
        params = [Param(key, str(value)) for key, value in _flat(settings)]
        for start in range(0, len(params), PARAMS_A_CALL):
            batch = params[start : start + PARAMS_A_CALL]
            with self.tracking.answering():
                self.tracking.client.log_batch(self.id, params=batch)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Several values at one step, in one call."""
        now = int(time.time() * 1000)
        batch = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        with self.tracking.answering():
            self.tracking.client.log_batch(self.id, metrics=batch)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Several tags, in one call."""
        batch = [RunTag(key, str(value)) for key, value in tags.items()]
        with self.tracking.answering():
            self.tracking.client.log_batch(self.id, tags=batch)

    def log_dict(self, content: Mapping[str, Any], file: str) -> None:
        """JSON or YAML, by the ending of the file's name."""
        with self.tracking.answering():
            self.tracking.client.log_dict(self.id, dict(content), file)

    def log_figure(self, figure: Figure, file: str) -> None:
        """A picture."""
        with self.tracking.answering():
            self.tracking.client.log_figure(self.id, figure, file)

    def log_table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], file: str) -> None:
        """A table (file ending in .json) that the MLflow UI shows as one."""
        data = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
        with self.tracking.answering():
            self.tracking.client.log_table(self.id, data, file)

    def log_file(self, path: Path) -> None:
        """A copy of a file."""
        with self.tracking.answering():
            self.tracking.client.log_artifact(self.id, str(path))

    def end(self, status: Status) -> None:
        """Close the run; the first call decides."""
        for child in self._children:
            child.end(status)
        if self._open:
            with self.tracking.answering():
                self.tracking.client.set_terminated(self.id, status)
            self._open = False


@contextmanager
def start_run(
    tracking: Tracking, experiment: str, name: str, tags: Mapping[str, str]
) -> Iterator[Run]:
    """A run that never stays RUNNING: FINISHED, FAILED after an error, KILLED after Ctrl-C."""
    run = _start(tracking, experiment_id(tracking, experiment), name, tags)
    try:
        yield run
    except BaseException as error:
        # Where MLflow itself is gone, what went wrong first is what the user must hear.
        with contextlib.suppress(TrackingError):
            run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.end("FINISHED")


def _start(tracking: Tracking, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = "unknown"
    system = {MLFLOW_USER: user, MLFLOW_SOURCE_NAME: "imgrec"}
    with tracking.answering():
        created = tracking.client.create_run(experiment, run_name=name, tags={**system, **tags})
    return Run(tracking, experiment, created.info.run_id)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
