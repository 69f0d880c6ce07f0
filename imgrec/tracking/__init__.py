"""The record of runs and models in MLflow. The only package that imports it.

MLflow reads these when it is imported, so they are set here, before any module of the package
does. What the user has set stays.
"""

import os

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Its messages go to our log file rather than to its own handler on the screen.
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Or else it copies the pyproject.toml and uv.lock of the current folder into every model.
    "MLFLOW_UV_AUTO_DETECT": "false",
    # A server that went away is an error after a minute, not after ten: time to start it again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    # Since 3.17 a server that keeps artifacts in a bucket sends clients there to download them, and
    # nodes of a cluster need not reach it: through the server, as they were uploaded.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
}.items():
    os.environ.setdefault(_name, _value)
