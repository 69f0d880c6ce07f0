"""Every way to ask a registered model, beside what it answered when it was registered."""

import base64
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from mlflow.entities.model_registry import ModelVersion

from imgrec.classifier import Classifier
from imgrec.errors import TrackingError
from imgrec.evaluation.golden import (
    Parity,
    Probabilities,
    answers_of,
    compare_answers,
    read_golden,
)
from imgrec.machine import free_port
from imgrec.tracking.connection import Tracking
from imgrec.tracking.registry import served_answers
from imgrec.tracking.versions import fetch_version

START_SECONDS, ANSWER_SECONDS = 90, 60


def ask_all_doors(tracking: Tracking, version: ModelVersion) -> dict[str, Parity]:
    """The classifier itself, MLflow's pyfunc, and `mlflow models serve` over HTTP, each with how alike it answers.

    Raises:
        ClassifierError: the version has no golden pictures.
        TrackingError: the server does not start.
    """
    folder = fetch_version(tracking, version)
    pictures, answers = read_golden(folder)
    model = folder.parents[1]
    return {
        "loaded": compare_answers(answers, answers_of(Classifier.load(folder), pictures)),
        "as MLflow loads it": compare_answers(answers, served_answers(model, pictures)),
        "over HTTP": compare_answers(answers, _over_http(model, pictures)),
    }


def _over_http(model: Path, pictures: Mapping[str, bytes]) -> Probabilities:
    rows = [{"image": base64.b64encode(content).decode()} for content in pictures.values()]
    body = json.dumps({"dataframe_records": rows}).encode()
    with _server(model) as address:
        request = urllib.request.Request(  # noqa: S310 - our own server on loopback
            f"{address}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
            told = json.load(answer)["predictions"]
    return {name: row["probabilities"] for name, row in zip(pictures, told, strict=True)}


@contextmanager
def _server(model: Path) -> Iterator[str]:
    """`mlflow models serve` on a free port of loopback; stopped with all its children after."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    # MLflow looks for uvicorn on the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with subprocess.Popen(  # noqa: S603 - our own command
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PATH": path},
    ) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/ping", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                for one in [*parent.children(recursive=True), parent]:
                    with suppress(psutil.NoSuchProcess):
                        one.kill()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        with (
            suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(url, timeout=2),  # noqa: S310
        ):
            return
        time.sleep(0.25)
    msg = f"mlflow models serve did not answer within {START_SECONDS} s"
    raise TrackingError(msg)
