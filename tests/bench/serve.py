"""Requests a second and their times: `imgrec serve` alone and under Ray Serve, `mlflow models serve`, and a plain FastAPI script.

    uv run python -m tests.bench.serve --record FOLDER --model digits-cnn --picture FILE --out FOLDER [--rounds 3]

FOLDER of the record is a `mlruns` with the registered model. wrk (Debian's) is the load: 1, 8 and 64 clients, each with
one request at a time. All servers run all the time and one is asked at a time. Written are `serve.json` and `serve.md`.
"""

import argparse
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from imgrec.config import TrackingConfig
from imgrec.machine import free_port
from imgrec.tracking.connection import connect
from imgrec.tracking.versions import fetch_classifier
from tests.e2e.user import IMGREC, served

CLIENTS = (1, 8, 64)
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
SCRIPT = """
wrk.method = "POST"
local file = io.open("{file}", "rb")
wrk.body = file:read("*all")
file:close()
wrk.headers["Content-Type"] = "{kind}"
"""


def milliseconds(text: str) -> float:
    """What wrk writes: `850.00us`, `1.20ms`, `2.00s`."""
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def load(url: str, script: Path, clients: int, seconds: int) -> dict[str, Any]:
    """What wrk measures."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
    told = subprocess.run(
        [*command, "-s", str(script), url], capture_output=True, text=True, check=True
    ).stdout
    errors = re.findall(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", told)
    return {
        "requests_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1]),  # type: ignore[index]
        "p50": milliseconds(re.search(r"(?m)^\s+50%\s+(\S+)", told)[1]),  # type: ignore[index]
        "p99": milliseconds(re.search(r"(?m)^\s+99%\s+(\S+)", told)[1]),  # type: ignore[index]
        "errors": errors,
    }


@contextmanager
def servers(record: Path, model: str, picture: Path, work: Path) -> Iterator[dict[str, Any]]:
    """The address and the body of a request of each, all running."""
    tracking = connect(TrackingConfig(), record, create=False)
    folder = fetch_classifier(tracking, model)
    raw, wrapped = work / "raw.lua", work / "wrapped.lua"
    raw.write_text(SCRIPT.format(file=picture, kind="application/octet-stream"))
    body = work / "body.json"
    rows = [{"image": base64.b64encode(picture.read_bytes()).decode()}]
    body.write_text(json.dumps({"dataframe_records": rows}))
    wrapped.write_text(SCRIPT.format(file=body, kind="application/json"))
    ours, mlflow, plain, replicas = free_port(), free_port(), free_port(), free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    commands = {
        "imgrec serve": (
            [*IMGREC, "serve", model, "--port", str(ours), "--set", f"storage={record}"],
            f"http://127.0.0.1:{ours}/readyz",
            (f"http://127.0.0.1:{ours}/v1/models/{model}/predict", raw),
        ),
        "mlflow models serve": (
            [
                sys.executable,
                "-m",
                "mlflow",
                "models",
                "serve",
                "-m",
                str(folder.parents[1]),
                "--env-manager",
                "local",
                "--port",
                str(mlflow),
            ],
            f"http://127.0.0.1:{mlflow}/ping",
            (f"http://127.0.0.1:{mlflow}/invocations", wrapped),
        ),
        "imgrec under Ray Serve": (
            [sys.executable, "-m", "tests.bench.ray_server", str(folder), str(replicas)],
            f"http://127.0.0.1:{replicas}/readyz",
            (f"http://127.0.0.1:{replicas}/v1/models/{folder.name}/predict", raw),
        ),
        "FastAPI and torch": (
            [sys.executable, "-m", "tests.bench.plain_server", str(folder), str(plain)],
            f"http://127.0.0.1:{plain}/openapi.json",
            (f"http://127.0.0.1:{plain}/predict", raw),
        ),
    }
    with ExitStack() as stack:
        for command, ready, _ in commands.values():
            stack.enter_context(served(command, ready, env={**os.environ, "PATH": path}))
        yield {name: asked for name, (_, _, asked) in commands.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--model", default="digits-cnn")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    said = parser.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    with (
        tempfile.TemporaryDirectory() as work,
        servers(said.record.absolute(), said.model, said.picture.absolute(), Path(work)) as running,
    ):
        for turn in range(said.rounds + 1):
            for clients in CLIENTS:
                for name, (url, script) in running.items():
                    one = load(url, script, clients, said.seconds if turn else 2)
                    if turn:  # the first warms up
                        found.setdefault(name, {}).setdefault(clients, []).append(one)
                        print(name, clients, one, flush=True)
    (said.out / "serve.json").write_text(json.dumps(found, indent=2))
    lines = [
        "| server | clients | requests/s | p50 ms | p99 ms | errors |",
        "|---|---|---|---|---|---|",
    ]
    for name, by_clients in found.items():
        for clients, runs in by_clients.items():
            values = {
                key: statistics.median(one[key] for one in runs)
                for key in ("requests_per_second", "p50", "p99")
            }
            errors = sum(bool(one["errors"]) for one in runs)
            lines.append(
                f"| {name} | {clients} | {values['requests_per_second']:,.0f} | {values['p50']:.2f} | "
                f"{values['p99']:.2f} | {errors} |"
            )
    (said.out / "serve.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
