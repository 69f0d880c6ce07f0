"""The MLflow UI on the right store."""

import os
import sys

from imgrec.config import Config
from pipelines.cli.pages.output import open_record


def serve_ui(config: Config, port: int) -> None:
    """Become the UI's server, for this machine alone; ends with Ctrl-C."""
    tracking = open_record(config)
    if not tracking.is_local:
        sys.stdout.write(f"{tracking.uri}\n")
        return
    address = f"http://127.0.0.1:{port}"
    sys.stderr.write(
        f"MLflow on {address}, Ctrl-C ends it\nthe champions and why: {address}/#/models\n"
    )
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking.uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, and no shell
