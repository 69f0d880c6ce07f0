"""What a tracking server can do, tried out before a run depends on it."""

import email.utils
import json
import tempfile
import time
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from imgrec.errors import TrackingError, reason_of
from imgrec.probe import ask
from imgrec.tracking.connection import Tracking

EXPERIMENT = "imgrec doctor"
PROXIED = "mlflow-artifacts:"


@dataclass(frozen=True, slots=True)
class Health:
    """What was found out about a tracking server.

    Attributes:
        version: Of its MLflow; empty if it does not say.
        store: `SqlStore`, `FileStore`, ...; empty if it does not say.
        open_to_all: Whether it answers without a name and password.
        artifacts: Where artifacts go; `mlflow-artifacts:/...` is through the server itself.
        artifact_problem: Why a file could not be written and read again; empty if it could.
        skew: Seconds by which its clock is ahead of this machine's, to a second.
    """

    version: str
    store: str
    open_to_all: bool
    artifacts: str
    artifact_problem: str
    skew: float

    @property
    def is_proxied(self) -> bool:
        """Whether workers need no keys of the artifacts' store."""
        return self.artifacts.startswith(PROXIED)


def client_version() -> str:
    """Of MLflow here."""
    return str(mlflow.__version__)


def examine(tracking: Tracking, timeout_seconds: int) -> Health:
    """Try a tracking server out; what is written for it is deleted again.

    Raises:
        TrackingError: it does not answer, or refuses to make or delete a run.
    """
    base = tracking.uri.rstrip("/")
    version = _version(tracking, timeout_seconds)
    _, info, _ = _get(f"{base}/api/3.0/mlflow/server-info", timeout_seconds)
    url = f"{base}/api/2.0/mlflow/experiments/get?experiment_id=0"
    status, _, skew = _get(url, timeout_seconds)
    artifacts, problem = _try_artifact(tracking)
    return Health(
        version=version,
        store=json.loads(info or "{}").get("store_type") or "",
        open_to_all=status not in {401, 403},
        artifacts=artifacts,
        artifact_problem=problem,
        skew=skew,
    )


def _try_artifact(tracking: Tracking) -> tuple[str, str]:
    """Where an artifact goes, and what went wrong on the way there and back."""
    client = tracking.client
    with tracking.answering():
        earlier = client.get_experiment_by_name(EXPERIMENT)
        experiment = earlier.experiment_id if earlier else client.create_experiment(EXPERIMENT)
        run = client.create_run(experiment, run_name="artifact upload")
    content = uuid.uuid4().hex
    problem = ""
    try:
        client.log_text(run.info.run_id, content, "hello.txt")
        with tempfile.TemporaryDirectory() as folder:
            path = client.download_artifacts(run.info.run_id, "hello.txt", folder)
            if Path(path).read_text(encoding="utf-8") != content:
                problem = "what comes back is not what was sent"
    except (MlflowException, OSError) as error:
        problem = reason_of(error)
    except Exception as error:  # each kind of store has its own
        problem = f"{type(error).__name__}: {reason_of(error)}"
    with tracking.answering():
        client.set_terminated(run.info.run_id)
        client.delete_run(run.info.run_id)
    return str(run.info.artifact_uri), problem


def _version(tracking: Tracking, timeout_seconds: int) -> str:
    """Of the server's MLflow, which only those with a name may ask."""
    with tracking.answering():
        credentials = get_default_host_creds(tracking.uri)
        answer = http_request(credentials, "/version", "GET", timeout=timeout_seconds)
    return answer.text.strip() if answer.ok else ""


def _get(url: str, timeout_seconds: int) -> tuple[int, str, float]:
    """What somebody without a name is answered: status, text where it is 200; its clock's skew."""
    began = time.time()
    answer = ask(url, timeout_seconds)
    if not answer.status:
        msg = f"{url}: no answer ({answer.reason})"
        raise TrackingError(msg)
    status, date = answer.status, answer.headers.get("Date")
    text = answer.text if status == HTTPStatus.OK else ""
    if not date:
        return status, text, 0.0
    # To a whole second, cut off; and anything between asking and hearing may be right.
    told, ended = email.utils.parsedate_to_datetime(date).timestamp(), time.time()
    return status, text, min(0.0, told + 1 - began) if told < ended else told - ended
