"""What the record says: runs by their tags, and their metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from imgrec.tracking.connection import Tracking

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the record has it.

    Attributes:
        id: MLflow's id.
        name: For people.
        experiment: Id of its experiment.
        status: `RUNNING`, `FINISHED`, `FAILED` or `KILLED`.
        started: Seconds since 1970.
        tags: All of them.
        metrics: The last value of each.
    """

    id: str
    name: str
    experiment: str
    status: str
    started: float
    tags: dict[str, str]
    metrics: dict[str, float]

    @property
    def parent(self) -> str:
        """Id of the run that it stands below; empty where there is none."""
        return self.tags.get(MLFLOW_PARENT_RUN_ID, "")

    @classmethod
    def of(cls, run: MlflowRun) -> "RunRecord":
        """From MLflow's own."""
        info, data = run.info, run.data
        return cls(
            id=info.run_id,
            name=info.run_name,
            experiment=info.experiment_id,
            status=info.status,
            started=info.start_time / 1000,
            tags=dict(data.tags),
            metrics=dict(data.metrics),
        )


def find_runs(
    tracking: Tracking,
    tags: Mapping[str, str],
    *,
    experiment: str = "",
    parent: str = "",
    status: str = "",
) -> list[RunRecord]:
    """The runs that bear all these tags, newest first.

    Args:
        tracking: Where.
        tags: To look for.
        experiment: Its name; all experiments without.
        parent: Id of the run that they stand below.
        status: Only runs of this status.
    """
    client = tracking.client
    wanted = dict(tags) | ({MLFLOW_PARENT_RUN_ID: parent} if parent else {})
    parts = [f"tags.`{key}` = '{value}'" for key, value in wanted.items()]
    parts += [f"attributes.status = '{status}'"] if status else []
    with tracking.answering():
        if experiment:
            known = client.get_experiment_by_name(experiment)
            experiments = [known.experiment_id] if known else []
        else:
            experiments = [e.experiment_id for e in client.search_experiments()]
        runs: list[MlflowRun] = []
        token: str | None = None
        while experiments:
            page = client.search_runs(
                experiments,
                " and ".join(parts),
                max_results=1000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                break
    return [RunRecord.of(run) for run in runs]


def metric_history(tracking: Tracking, run_id: str, metric: str) -> dict[int, float]:
    """The values of a metric by step."""
    with tracking.answering():
        history = tracking.client.get_metric_history(run_id, metric)
    return {value.step: value.value for value in history}


def find_run(tracking: Tracking, run_id: str) -> RunRecord | None:
    """A run by its id, if there is one that was not deleted."""
    with tracking.answering():
        try:
            run = tracking.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise
    return RunRecord.of(run) if run.info.lifecycle_stage == "active" else None


def fetch_file(tracking: Tracking, run_id: str, file: str, into: Path) -> Path | None:
    """A copy of a run's file in a folder; None where the run has none."""
    with tracking.answering():
        if file not in {one.path for one in tracking.client.list_artifacts(run_id)}:
            return None
        return Path(tracking.client.download_artifacts(run_id, file, str(into)))


def set_status(tracking: Tracking, record: RunRecord, status: Status) -> None:
    """Close a run whose own process cannot any more."""
    with tracking.answering():
        tracking.client.set_terminated(record.id, status)
