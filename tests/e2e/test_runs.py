"""Runs of several kinds, each in a folder of its own: one that fails in part, searches, is killed or interrupted."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from imgrec.config import TrackingConfig
from imgrec.machine import available_cores, free_port
from imgrec.tracking.connection import connect
from imgrec.tracking.tags import CORES
from tests.conftest import processes_of
from tests.e2e.user import (
    IMGREC,
    end_of,
    imgrec,
    make_pictures,
    refuse_unregistered,
    served,
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and settings, in which nothing was run."""
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder)
    return folder


@pytest.mark.long
def test_one_architecture_that_fails_does_not_stop_the_other(
    pictures: Path, tmp_path: Path
) -> None:
    """Status 3, the failed one named, the other registered, and taken when it is tried again."""
    words = [
        str(pictures / "small.toml"),
        "--data",
        str(pictures / "my pictures"),
        "--name",
        "half",
    ]
    words += ["--arch", "ann,cnn", "--json", "--set", "ann.train.optimizer=sgd"]
    # Every step takes the weights times -9.
    bad = {"learning_rate": 10.0, "weight_decay": 1.0, "max_grad_norm": 0.0, "warmup": 0.0}
    for key, value in bad.items():
        words += ["--set", f"ann.train.{key}={value}"]
    first = imgrec("run", *words, cwd=tmp_path)
    again = imgrec("run", *words, cwd=tmp_path)
    listed = json.loads(imgrec("runs", "--json", cwd=tmp_path).stdout)["runs"]

    for ended, taken in ((first, False), (again, True)):
        assert ended.returncode == 3
        assert ended.stderr.splitlines()[-1].startswith("imgrec: no model of ann: loss is")
        result = json.loads(ended.stdout)
        assert [(m["arch"], m["taken"]) for m in result["models"]] == [("cnn", taken)]
        assert list(result["failures"]) == ["ann"]
    assert [run["state"] for run in listed] == ["failed"]
    assert listed[0]["command"].startswith("uv run imgrec run")


@pytest.mark.long
def test_what_tune_found_is_what_run_trains_with(pictures: Path, tmp_path: Path) -> None:
    """Searched once, with its pictures on record, and shown beside the defaults."""
    words = [
        str(pictures / "small.toml"),
        "--data",
        str(pictures / "my pictures"),
        "--name",
        "tuned",
    ]
    words += ["--trials", "6", "--arch", "ann", "--json", "--set", "search.confirm=1"]
    tuned = imgrec("tune", *words, cwd=tmp_path)
    ran = imgrec("run", *words, cwd=tmp_path)
    search = json.loads(tuned.stdout)["searches"]["ann"]
    result = json.loads(ran.stdout)
    tracking = connect(TrackingConfig(), tmp_path / "mlruns", create=False)
    files = {file.path for file in tracking.client.list_artifacts(search["run_id"])}
    params = tracking.client.get_run(result["models"][0]["run_id"]).data.params

    assert search["trials"] == 6
    if search["best_trial"] or search["confirmed"]:
        # It was chosen by another seed than the one that found it.
        chosen = search["confirmed"][str(search["best_trial"])]
        assert "0" in search["confirmed"]
        assert chosen == max(search["confirmed"].values())
    assert search["taken"] is False
    assert {"optimization_history.png", "parallel_coordinates.png", "tuned.json"} <= files
    assert "search taken from the record: 6 trials" in ran.stderr
    assert result["searches"]["ann"]["taken"]
    for key, values in search["tuned"].items():
        if key.startswith("train."):
            assert params[key] == str(values["chosen"])


def test_several_seeds_register_the_best_and_are_compared_as_means(
    pictures: Path, tmp_path: Path
) -> None:
    """Two models on record and one version; the same command takes all, and one seed more trains one more."""
    words = [str(pictures / "small.toml"), "--data", str(pictures / "my pictures")]
    words += ["--name", "seeds", "--arch", "ann", "--json", "--set", "cluster.cpus_per_worker=0"]
    first = imgrec("run", *words, "--seeds", "2", cwd=tmp_path)
    again = imgrec("run", *words, "--seeds", "2", cwd=tmp_path)
    more = imgrec("run", *words, "--seeds", "3", cwd=tmp_path)
    tracking = connect(TrackingConfig(), tmp_path / "mlruns", create=False)
    (model,) = json.loads(first.stdout)["models"]
    (standing,) = json.loads(first.stdout)["comparison"]["models"]
    (taken,) = json.loads(again.stdout)["models"]
    (third,) = json.loads(more.stdout)["models"]
    runs = [tracking.client.get_run(run) for run in model["seed_runs"]]

    for ended in (first, again, more):
        assert ended.returncode == 0, ended.stderr
    assert {run.info.run_name for run in runs} == {"seeds-ann", "seeds-ann-seed-1"}
    assert model["run_id"] in model["seed_runs"]
    accuracies = [run.data.metrics["test/accuracy"] for run in runs]
    assert standing["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert standing["seeds"] == 2
    assert "small networks: 2 at a time" in first.stderr
    assert "a worker died" not in first.stderr
    version = tracking.client.get_model_version(model["registered_model"], str(model["version"]))
    assert version.tags[CORES] == str(available_cores() // 2)
    best = max(runs, key=lambda run: run.data.metrics["val_best/macro_f1"])
    assert (
        best.data.metrics["val_best/macro_f1"]
        == tracking.client.get_run(model["run_id"]).data.metrics["val_best/macro_f1"]
    )
    assert taken["taken"]
    assert set(taken["seed_runs"]) == set(model["seed_runs"])
    assert "seeds-ann-seed-2" not in again.stderr
    assert set(third["seed_runs"]) > set(model["seed_runs"])
    assert len(third["seed_runs"]) == 3
    assert third["version"] <= 2


def test_a_tracking_server_holds_everything_including_the_artifacts(
    pictures: Path, tmp_path: Path
) -> None:
    """A team's MLflow: the run goes there, and nothing of it is recorded here."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with served(command, f"{uri}/health", cwd=tmp_path):
        words = ["train", str(pictures / "small.toml"), "--arch", "ann", "--json"]
        words += ["--data", str(pictures / "my pictures"), "--set", f"tracking.uri={uri}"]
        ended = imgrec(*words, "--name", "team", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        guess = imgrec(
            "predict",
            "team-ann",
            str(pictures / "my pictures" / "left" / "0.png"),
            "--json",
            "--set",
            f"tracking.uri={uri}",
            cwd=tmp_path,
        )

    assert json.loads(ended.stdout)["tracking_uri"] == uri
    assert json.loads(guess.stdout)["predictions"][0]["label"] == "left"
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()
    assert list((tmp_path / "artifacts").rglob("model.safetensors"))


@pytest.mark.chaos
def test_a_killed_worker_costs_no_epoch_and_no_model(pictures: Path, tmp_path: Path) -> None:
    """Kill -9, as the kernel does when memory runs out: every epoch is there once."""
    words = ["train", str(pictures / "small.toml"), "--arch", "ann", "--name", "killed", "--json"]
    words += ["--data", str(pictures / "my pictures"), "--set", "train.epochs=400"]
    with subprocess.Popen(
        [*IMGREC, *words, "--set", "cluster.checkpoint_seconds=1"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "loss" in line:
                break
        workers = processes_of(psutil.Process(process.pid), "LoneWorker")
        for worker in workers:
            worker.kill()
        stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    (model,) = json.loads(stdout)["models"]
    client = connect(TrackingConfig(), tmp_path / "mlruns", create=False).client
    steps = [m.step for m in client.get_metric_history(model["run_id"], "val/macro_f1")]

    assert len(workers) == 1
    assert "a worker died; going on from epoch" in stderr
    assert steps == list(range(1, 401))
    assert model["registered_model"] == "killed-ann"


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGINT, id="ctrl-c"),
        pytest.param(signal.SIGTERM, id="sigterm", marks=pytest.mark.chaos),
    ],
)
def test_an_interrupt_ends_within_seconds_and_leaves_nothing(
    pictures: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """No process, no run that says RUNNING, no model half-registered."""
    words = ["run", str(pictures / "small.toml"), "--data", str(pictures / "my pictures")]
    words += ["--set", "train.epochs=9999", "--name", "long"]
    process = subprocess.Popen(
        [*IMGREC, *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},
        start_new_session=True,  # a process group of its own, as a terminal gives it
        # A shell lets what it starts in the background ignore Ctrl-C, and so everything that these tests start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch" in line and "loss" in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    started = time.monotonic()
    try:
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # Ctrl-C reaches the whole group
        else:
            process.send_signal(how)
        stdout, stderr = end_of(process, 60)
        seconds = time.monotonic() - started
        _, alive = psutil.wait_procs(children, timeout=5)
    finally:
        for one in [*children, process]:  # or it would train beside all other tests
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    tracking = connect(TrackingConfig(), tmp_path / "mlruns", create=False)
    experiments = [e.experiment_id for e in tracking.client.search_experiments()]
    runs = tracking.client.search_runs(experiments)

    assert process.returncode == 130
    assert stderr.strip().splitlines()[-1] == "imgrec: interrupted"
    assert "Traceback" not in stderr
    assert stdout == ""
    assert seconds < 30  # 17 s were seen beside another file's cluster on two cores
    assert alive == []
    assert {run.info.status for run in runs} == {"KILLED"}
    assert len(runs) == 5  # the workflow and one for each model
    assert tracking.client.search_registered_models() == []


def test_a_time_for_training_decides_once_how_many_epochs_there_are(
    pictures: Path, tmp_path: Path
) -> None:
    """Whoever goes on with the run, or asks for it again, trains no other model because a machine was busier."""
    words = [str(pictures / "small.toml"), "--data", str(pictures / "my pictures")]
    words += ["--name", "timed", "--arch", "cnn", "--set", "train.epochs=0"]
    words += ["--set", "train.budget='3s'"]
    planned = imgrec("run", *words, "--plan", cwd=tmp_path)
    first = imgrec("run", *words, "--json", cwd=tmp_path)
    again = imgrec("run", *words, "--json", cwd=tmp_path)
    after = imgrec("run", *words, "--plan", cwd=tmp_path)
    (trained,) = json.loads(first.stdout)["models"]
    (taken,) = json.loads(again.stdout)["models"]
    tracking = connect(TrackingConfig(), tmp_path / "mlruns", create=False)
    run = tracking.client.get_run(trained["run_id"])
    chosen = re.search(
        r"cnn: epochs = (\d+): about .* of 3 s, as the workers were measured", first.stderr
    )

    refuse_unregistered(first)
    assert planned.returncode == 0, planned.stderr
    assert chosen, first.stderr
    assert f"cnn: epochs = {chosen[1]}, as it was measured before" in again.stderr
    assert taken["run_id"] == trained["run_id"]
    assert "to do" not in after.stdout
    assert run.data.params["train.epochs"] == chosen[1]
