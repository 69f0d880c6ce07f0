"""Encoded pictures over the nodes of a cluster: what the free cores of other nodes are worth to one that trains.

    python -m tests.bench.stream --data 'DIR/*.tar'

One worker of one core trains the compact ann, which wants pictures fastest, on a cluster of the lab (tests/e2e/lab.py; root, and
Debian's postgresql and iproute2): with pixels, with JPEG files and no other node, and with JPEG files and two
nodes that decode. All nodes are this machine's, so no more can come of it than its cores give.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile

from tests.conftest import ROOT
from tests.e2e.lab import Lab, lab

CASES = {
    "pixels, one node": ((1,), "pixels"),
    "JPEG, one node": ((1,), "jpeg"),
    "JPEG, three nodes": ((1, 1, 1), "jpeg"),
}


def images_per_second(built: Lab, data: str, keep: str, epochs: int) -> list[float]:
    """Of each epoch, as the record has it."""
    words = ["--data", data, "--arch", "ann", "--name", "stream", "--json"]
    settings = [
        f"storage='{built.storage}'",
        f"data.keep='{keep}'",
        "data.image_size=96",
        "data.near_duplicates=0",
        f"train.epochs={epochs}",
        "ann.model.backbone='compact'",
        "ann.model.hidden=[64]",
        "cluster.cpus_per_worker=1",
    ]
    for setting in settings:
        words += ["--set", setting]
    environment = built.env | {"PYTHONPATH": str(ROOT), "IMGREC_CLUSTER": built.jobs}
    with tempfile.TemporaryDirectory() as home:
        subprocess.run(
            [sys.executable, "-m", "pipelines", "submit", "run", *words],
            cwd=home,
            env=environment,
            check=True,
            stdout=sys.stderr,
        )
        asked = subprocess.run(
            [sys.executable, "-m", "pipelines", "models", "--json"],
            cwd=home,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
    (model,) = json.loads(asked.stdout)["models"]
    return speeds_of(built, model["run_id"])


def speeds_of(built: Lab, run: str) -> list[float]:
    code = (
        "import sys; from mlflow import MlflowClient; "
        "print([m.value for m in MlflowClient().get_metric_history(sys.argv[1], 'images_per_second')])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, run],
        env=built.env,
        check=True,
        capture_output=True,
        text=True,
    )
    speeds: list[float] = json.loads(told.stdout)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=5)
    asked = parser.parse_args()
    for name, (nodes, keep) in CASES.items():
        with lab(nodes) as built:
            speeds = images_per_second(built, asked.data, keep, asked.epochs)
        print(
            f"{name}: {statistics.median(speeds[1:]):,.0f} images/s ({', '.join(f'{one:,.0f}' for one in speeds)})",
            flush=True,
        )


if __name__ == "__main__":
    main()
