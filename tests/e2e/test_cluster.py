"""The same run on a real cluster: three nodes, PostgreSQL, an S3 store, a user outside of it all."""

import base64
import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from PIL import Image
from sklearn.datasets import load_digits

from imgrec.machine import free_port
from tests.conftest import ROOT
from tests.e2e.lab import (
    Lab,
    answers,
    can_make_networks,
    kill_tree,
    lab,
    postgres_programs,
    wait_for,
)

pytestmark = [
    pytest.mark.skipif(postgres_programs() is None, reason="needs Debian's package postgresql"),
    pytest.mark.skipif(not can_make_networks(), reason="needs network namespaces, and so root"),
    pytest.mark.timeout(400),
]

SETTINGS = """
archs = ["ann", "cnn"]
[data]
source = "digits"
[train]
epochs = 4
[cnn.model]
widths = [8, 16]
[cluster]
checkpoint_seconds = 0.5
"""
DIGITS = set("0123456789")


@dataclass
class User:
    """Somebody outside, who sees nothing of the cluster but its addresses."""

    cluster: Lab
    home: Path

    def environment(self, **changes: str) -> dict[str, str]:
        known = {"PYTHONPATH": str(ROOT), "IMGREC_CLUSTER": self.cluster.jobs}
        return self.cluster.env | known | changes

    def start(self, *words: str, **changes: str) -> subprocess.Popen[str]:
        # In the background of a shell Ctrl-C is ignored, and by all that is started there.
        command = ["env", "--default-signal=INT", sys.executable, "-m", "pipelines", *words]
        return subprocess.Popen(
            command,
            cwd=self.home,
            env=self.environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def imgrec(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **changes) as process:
            stdout, stderr = process.communicate(timeout=350)
        return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)

    def submission(self, *words: str) -> tuple[str, ...]:
        return ("submit", "run", "my.toml", "--set", f"storage={self.cluster.storage}", *words)

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.imgrec(*self.submission(*words))

    def ask(self, *words: str) -> dict[str, Any]:
        """A command with --json that goes well."""
        ended = self.imgrec(*words, "--json")
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    def states(self, name: str) -> list[str]:
        """Of the jobs of runs of this name."""
        jobs = self.ask("jobs")["jobs"]
        return [job["state"] for job in jobs if job["job"].startswith(f"imgrec-{name}-")]


def wait_until(holds: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    with lab() as built:
        yield built


@pytest.fixture
def user(cluster: Lab, tmp_path: Path) -> User:
    (tmp_path / "my.toml").write_text(SETTINGS)
    Image.fromarray((load_digits().images[0] * 15.9).astype("uint8")).save(tmp_path / "digit.png")
    return User(cluster, tmp_path)


def serve(user: User, model: str) -> str:
    """What `mlflow models serve` says of the digit."""
    port = free_port()
    words = ["models", "serve", "-m", f"models:/{model}@champion", "--env-manager", "local"]
    program = [sys.executable, "-m", "mlflow", *words, "--port", str(port)]
    process = user.cluster.run(program, "serve", env=user.environment())
    rows = [{"image": base64.b64encode((user.home / "digit.png").read_bytes()).decode()}]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps({"dataframe_records": rows}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        wait_for("the model", lambda: answers(f"http://127.0.0.1:{port}/ping"), process)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["predictions"][0]["label"]
    finally:
        kill_tree(process)


def test_a_run_from_outside_ends_as_registered_models_that_serve(user: User) -> None:
    """The job's log on the screen, the artifacts in the S3 store; and twice is not two runs."""
    first = user.submit("--name", "first")
    assert first.returncode == 0, first.stdout + first.stderr
    again = user.submit("--name", "first")
    models = {(m["registered_model"], m["version"]) for m in user.ask("models")["models"]}
    (predicted,) = user.ask("predict", "first-cnn", "digit.png")["predictions"]

    assert "registered as first-ann version 1" in first.stdout
    assert "uploading code and settings:" in first.stderr
    assert again.returncode == 0
    assert "succeeded already; it is not run twice" in again.stderr
    assert user.states("first") == ["succeeded"]
    assert models >= {("first-ann", 1), ("first-cnn", 1)}
    assert any(name.endswith("model.safetensors") for name in user.cluster.objects())
    assert predicted["label"] == serve(user, "first-cnn") == "0"  # what digit.png shows


@pytest.mark.long
def test_seeds_on_two_workers_are_reported_and_answer_on_all_nodes(user: User) -> None:
    """The report is read from outside; a folder that all nodes see is answered by all of them, each picture once."""
    cluster = user.cluster
    words = ("--name", "seeds", "--arch", "cnn", "--seeds", "2", "--set", "cluster.workers=2")
    ended = user.submit(*words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "training on 2 workers" in ended.stdout
    page = user.home / "report.html"
    assert user.imgrec("report", "seeds", "--out", str(page)).returncode == 0
    assert "<svg" in page.read_text()
    (standing,) = user.ask("compare", "seeds")["models"]
    assert standing["seeds"] == 2

    pictures = cluster.storage / "pictures"
    pictures.mkdir()
    for number, image in enumerate(load_digits().images[:600]):
        Image.fromarray((image * 15.9).astype("uint8")).save(pictures / f"{number:04}.png")
    (pictures / "broken.png").write_bytes(b"no picture")
    small = "import sys; from pipelines import predict; predict.PART = 64; from pipelines.cli.pages import predictions; "
    small += "predictions.PART = 64; from pipelines.cli.app import main; main()"
    command = [*cluster.nodes[0].inside, sys.executable, "-c", small, "predict", "seeds-cnn"]
    answered = subprocess.run(
        [*command, str(pictures), "--out", str(user.home / "answers.jsonl")],
        env=user.environment(RAY_ADDRESS=cluster.gcs),
        cwd=user.home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answered.returncode == 3, answered.stderr
    assert "3 nodes of the cluster answer" in answered.stderr
    rows = [json.loads(line) for line in (user.home / "answers.jsonl").read_text().splitlines()]
    assert [Path(row["picture"]).name for row in rows] == sorted(p.name for p in pictures.iterdir())
    assert ["error" in row for row in rows] == [False] * 600 + [True]
    assert {row["label"] for row in rows[:600]} <= DIGITS


TAKE_TURNS = """
import sys, time
from pathlib import Path
from imgrec.config import TrackingConfig
from imgrec.tracking.connection import connect
from imgrec.tracking.turns import one_at_a_time
tracking = connect(TrackingConfig(), Path(sys.argv[1]), create=True)
for _ in range(2):
    with one_at_a_time(tracking, "turns", "key"):
        began = time.monotonic_ns()
        time.sleep(0.05)
        print(began, time.monotonic_ns(), flush=True)
"""


def test_over_a_server_on_postgresql_one_is_inside_at_a_time(user: User, tmp_path: Path) -> None:
    """What only its API offers decides which of several processes begins a run."""
    command = [sys.executable, "-c", TAKE_TURNS, str(tmp_path / "turns")]
    processes = [
        subprocess.Popen(command, env=user.environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=200)[0] for process in processes]
    stays = sorted(
        (int(began), int(ended))
        for text in said
        for began, ended in map(str.split, text.splitlines())
    )

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(stays) == 6
    assert all(ended <= began for (_, ended), (began, _) in pairwise(stays))


@pytest.mark.chaos
def test_doctor_looks_at_every_node_from_inside(user: User) -> None:
    """And finds the one that does not see the storage, which a run then refuses to start on."""
    cluster = user.cluster
    words = ("doctor", "my.toml", "--address", cluster.jobs, "--set", f"storage={cluster.storage}")
    found = {one["what"]: one for one in user.ask(*words)["findings"]}

    assert {one["level"] for one in found.values()} <= {"ok", "warning"}, found
    assert "3 nodes" in found["nodes"]["text"]
    assert "go through the server" in found["artifacts"]["text"]
    assert found["tracking authentication"]["level"] == "ok"

    blind = cluster.start_node(1, hidden=cluster.storage)
    try:
        ended = user.imgrec(*words, "--json")
        levels = {(one["what"], one["level"]): one for one in json.loads(ended.stdout)["findings"]}
        refused = user.submit("--name", "blind")
    finally:
        blind.kill()
        cluster.nodes.remove(blind)
    assert ended.returncode == 2
    assert blind.address in levels["storage", "error"]["text"]
    assert refused.returncode == 2, refused.stdout
    assert f"the node {blind.address} does not see it" in refused.stdout


def test_what_a_cluster_cannot_do_is_refused_before_anything_is_sent(user: User) -> None:
    """One line each, with the cure."""
    storage = ("--set", f"storage={user.cluster.storage}")
    local = ("--set", "tracking.uri=sqlite:////tmp/x.db")
    refused = [
        (user.imgrec("submit", "run", "my.toml"), "storage = ", "a folder of this machine"),
        (user.submit(*local), "tracking.uri = 'sqlite", "set a server"),
        (user.submit("--set", "train.epocs=3"), "train.epocs", "did you mean train.epochs"),
        (
            user.imgrec("submit", "run", *storage, IMGREC_CLUSTER="http://127.0.0.1:9"),
            "http://127.0.0.1:9",
            "no Ray job server answers there",
        ),
        (
            user.imgrec("submit", "run", *storage, RAY_AUTH_TOKEN="0" * 64),
            "wants its token",
            "RAY_AUTH_TOKEN_PATH",
        ),
        (user.imgrec("logs", "imgrec-nothing"), "no such job", "imgrec jobs"),
    ]
    for ended, what, cure in refused:
        (line,) = ended.stderr.strip().splitlines()
        assert ended.returncode == 2
        assert what in line
        assert cure in line


@pytest.mark.chaos
def test_a_job_can_be_left_rejoined_and_stopped(user: User) -> None:
    """Its end is that of the job; submitted again, it goes on where it was."""
    words = ("--name", "long", "--arch", "ann", "--set", "train.epochs=3000")
    with user.start(*user.submission(*words)) as process:
        wait_until(lambda: user.states("long") == ["running"])
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "goes on; rejoin it with imgrec logs imgrec-long-" in stderr

    (name,) = [job["job"] for job in user.ask("jobs")["jobs"] if "-long-" in job["job"]]
    wait_until(lambda: "epoch" in user.imgrec("logs", name).stdout)
    with user.start("logs", name, "--follow") as follower:
        assert user.imgrec("stop", name).returncode == 0
        log, _ = follower.communicate(timeout=60)
    assert follower.returncode != 0
    assert "training on 1 worker" in log
    assert user.states("long") == ["stopped"]
    (run,) = [run for run in user.ask("runs")["runs"] if run["name"] == "long"]
    assert run["state"] == "interrupted"


def registered(user: User, name: str) -> dict[str, int]:
    """The newest versions of the models of a run."""
    found: dict[str, int] = {}
    for model in user.ask("models")["models"]:
        if model["registered_model"].startswith(f"{name}-"):
            known = found.get(model["registered_model"], 0)
            found[model["registered_model"]] = max(known, model["version"])
    return found


def steps_of(user: User, name: str) -> dict[str, list[int]]:
    """The epochs on record, by model."""
    with pytest.MonkeyPatch.context() as patched:
        for key, value in user.cluster.env.items():
            if key.startswith("MLFLOW"):
                patched.setenv(key, value)
        client = MlflowClient(user.cluster.env["MLFLOW_TRACKING_URI"])
        found = client.search_registered_models(filter_string=f"name like '{name}-%'")
        runs = {model.name: model.latest_versions[0].run_id for model in found}
        return {
            model: sorted(p.step for p in client.get_metric_history(run, "val/macro_f1"))
            for model, run in runs.items()
        }


def kill_driver() -> None:
    """With -9, as a machine that goes down would."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-m", "pipelines", "run"] and "run.toml" in words:
            process.kill()


@dataclass
class Once:
    """What is done when a text is first seen in the log of a job."""

    text: str
    act: Callable[[], object]
    done: bool = False


def watched(user: User, words: tuple[str, ...], *deeds: Once) -> tuple[int, str]:
    """The status and the log of a job, to which things happen; the cluster is idle before."""
    user.cluster.wait_until_idle()
    log = []
    with user.start(*user.submission(*words)) as process:
        assert process.stdout
        for line in process.stdout:
            log.append(line)
            for deed in deeds:
                if deed.text in line and not deed.done:
                    deed.done = True
                    deed.act()
        _, stderr = process.communicate()
    assert all(deed.done for deed in deeds), "".join(log) + stderr
    return process.returncode, "".join(log)


def workers_in(log: str) -> list[int]:
    """How many workers each group had."""
    return [int(found) for found in re.findall(r"training on (\d) worker", log)]


@pytest.mark.chaos
def test_pictures_are_prepared_by_all_nodes_and_copied_to_each(user: User) -> None:
    """Once, on the shared storage; every node reads its own disk."""
    rng = np.random.default_rng(0)
    for number in range(3000):
        path = user.cluster.storage / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    source = json.dumps(str(path.parents[1]))
    words = ("--name", "photos", "--arch", "ann", "--set", f"data.source={source}")
    status, log = watched(user, (*words, "--set", "cluster.workers=3"))

    assert status == 0, log
    assert "decoding pictures on 3 nodes: 3,000 of 3,000" in log
    (second,) = user.cluster.storage.glob("store/*/images-00001.npy")
    folder = second.parent
    assert len(list(folder.glob("images-*.npy"))) == 3
    for node in user.cluster.nodes:
        (copy,) = node.disk.glob(f"cache/*/{folder.name}.npy")
        images = np.load(copy, mmap_mode="r")
        assert images.shape == (3000, 12, 12, 3)


@pytest.mark.chaos
def test_a_node_lost_in_a_fit_costs_no_model_and_a_new_one_is_taken_in(user: User) -> None:
    """cluster.workers = [2, 3]: it goes on with what is there, and every epoch counts once."""
    cluster = user.cluster
    settings = ("--set", "cluster.workers=[2,3]", "--set", "train.epochs=700")
    words = ("--name", "elastic", "--arch", "ann", *settings)
    lose = Once("ann: epoch", lambda: cluster.nodes.pop().kill())
    find = Once("training on 2 workers", lambda: cluster.start_node(1))
    status, log = watched(user, words, lose, find)

    assert status == 0, log
    assert registered(user, "elastic") == {"elastic-ann": 1}
    assert steps_of(user, "elastic") == {"elastic-ann": list(range(1, 701))}
    assert "a worker died; going on from epoch" in log
    assert workers_in(log) == [3, 2, 3]


@pytest.mark.chaos
def test_a_node_that_is_drained_costs_what_was_trained_since_the_warning(user: User) -> None:
    """Of its own accord a checkpoint would be written after ten minutes only."""
    cluster = user.cluster
    settings = ("cluster.workers=[2,3]", "train.epochs=300", "cluster.checkpoint_seconds=600")
    words = ("--name", "drained", "--arch", "ann", *(w for s in settings for w in ("--set", s)))

    def drain() -> None:
        node = cluster.nodes.pop()
        cluster.drain(node, seconds=15)
        Timer(15, node.kill).start()

    status, log = watched(user, words, Once("ann: epoch 1", drain))
    cluster.start_node(1)
    assert status == 0, log
    (epoch,) = re.findall(r"going on from epoch (\d+)", log)
    assert int(epoch) > 1
    assert workers_in(log) == [3, 2]
    assert registered(user, "drained") == {"drained-ann": 1}
    assert steps_of(user, "drained") == {"drained-ann": list(range(1, 301))}


@pytest.mark.chaos
def test_a_node_lost_in_a_search_costs_no_trial(user: User) -> None:
    """As many trials as were asked for, each of which came to a score."""
    cluster = user.cluster
    settings = ("search.trials=6", "train.epochs=200", "cluster.checkpoint_seconds=2")
    words = ("--name", "searched", "--arch", "ann", *(w for s in settings for w in ("--set", s)))
    status, log = watched(user, words, Once("/6 trials", lambda: cluster.nodes.pop().kill()))
    cluster.start_node(1)

    assert status == 0, log
    assert registered(user, "searched") == {"searched-ann": 1}
    assert steps_of(user, "searched") == {"searched-ann": list(range(1, 201))}
    assert "6 trials" in log
    assert re.search(r"a process of trial \d died; the trial goes on", log)
    assert "Traceback" not in log
    assert "failed" not in log


@pytest.mark.chaos
def test_a_full_storage_ends_the_run_with_one_line_and_it_goes_on_when_there_is_room(
    user: User,
) -> None:
    """Nothing is registered by halves."""
    ballast = user.cluster.storage / "ballast"
    words = ("--name", "full", "--arch", "ann", "--set", "train.epochs=1200")

    def fill() -> None:
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))

    status, seen = watched(user, words, Once("ann: epoch", fill))
    ballast.unlink()
    assert status == 2, seen
    (said,) = [line for line in seen.splitlines() if line.startswith("imgrec: ")]
    assert "is full" in said
    assert "Traceback" not in seen
    assert registered(user, "full") == {}

    status, log = watched(user, words)
    assert status == 0, log
    assert re.search(r"ann: epoch [1-9]", log)
    assert registered(user, "full") == {"full-ann": 1}
    assert steps_of(user, "full") == {"full-ann": list(range(1, 1201))}


@pytest.mark.chaos
def test_a_killed_job_submitted_again_goes_on(user: User) -> None:
    """The same runs, the same versions, no epoch twice."""
    words = ("--name", "killed", "--arch", "ann,cnn", "--set", "train.epochs=40")
    status, _ = watched(user, words, Once("registered as killed-", kill_driver))
    assert status != 0
    again = user.submit(*words)

    assert again.returncode == 0, again.stdout
    assert "taken from the record" in again.stdout
    assert registered(user, "killed") == {"killed-ann": 1, "killed-cnn": 1}
    assert all(steps == list(range(1, 41)) for steps in steps_of(user, "killed").values())


@pytest.mark.chaos
def test_a_tracking_server_that_is_away_for_half_a_minute_loses_nothing(user: User) -> None:
    """What was logged meanwhile arrives."""
    words = ("--name", "away", "--arch", "ann", "--set", "train.epochs=2500")

    def away() -> None:
        port = user.cluster.stop_mlflow()
        time.sleep(30)
        user.cluster.start_mlflow(port)

    status, log = watched(user, words, Once("ann: epoch", away))
    assert status == 0, log
    assert registered(user, "away") == {"away-ann": 1}
    assert steps_of(user, "away") == {"away-ann": list(range(1, 2501))}


@pytest.mark.chaos
def test_a_tracking_server_that_is_gone_ends_the_run_which_resumes_later(user: User) -> None:
    """With one line that names the server."""
    words = ("--name", "gone", "--arch", "ann", "--set", "train.epochs=2500")
    port = int(user.cluster.env["MLFLOW_TRACKING_URI"].rpartition(":")[2])
    status, log = watched(user, words, Once("ann: epoch", user.cluster.stop_mlflow))
    user.cluster.start_mlflow(port)
    again = user.submit(*words)

    assert status == 2, log
    assert f"imgrec: MLflow at {user.cluster.env['MLFLOW_TRACKING_URI']}" in log
    assert again.returncode == 0, again.stdout
    assert registered(user, "gone") == {"gone-ann": 1}
    assert steps_of(user, "gone") == {"gone-ann": list(range(1, 2501))}
