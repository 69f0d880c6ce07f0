"""Kill -9 in every stage, then the same command: it ends as if nothing had happened.

Each test compares what the record holds with that of an undisturbed run.
"""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from imgrec.config import TrackingConfig
from imgrec.tracking.connection import connect
from imgrec.tracking.query import RunRecord, find_runs, metric_history
from tests.conftest import picture, processes_of

pytestmark = pytest.mark.timeout(900)  # up to four runs each, beside another test in CI

IMGREC = [sys.executable, "-m", "pipelines"]
SETTINGS = """
archs = ["ann", "cnn"]
name = "thirds"
[preprocess]
flip = false
erase = 0.0
[train]
epochs = 60
batch_size = 16
[ann.model]
hidden = [32]
[cnn.model]
widths = [8, 16]
[cnn.train]
epochs = 30
[search]
min_epochs = 10
[cluster]
checkpoint_seconds = 0.2
cpus_per_worker = 1
"""
SEARCH, PLAIN = ("--trials", "4"), ()
INTERRUPTED = {("decision", "RUNNING"), ("decision", "KILLED")}
MODEL_STAGES = ("fit", "evaluate", "register")


@dataclass
class Record:
    """What a run left behind."""

    result: dict[str, Any]
    runs: Counter[tuple[str, str, str, str]]  # kind, architecture, status, last stage done
    trials: dict[str, list[int]]
    models: dict[str, int]

    @classmethod
    def read(cls, folder: Path, result: dict[str, Any]) -> "Record":
        tracking = connect(TrackingConfig(), folder / "mlruns", create=False)
        runs = find_runs(tracking, {})
        for run in runs:
            with sqlite3.connect(folder / "mlruns" / "mlflow.db") as database:
                query = "select step from metrics where run_uuid = ? and key = 'val/macro_f1'"
                steps = [step for (step,) in database.execute(query, [run.id])]
            assert sorted(steps) == list(range(1, len(steps) + 1)), (run.name, steps)
            assert len(metric_history(tracking, run.id, "val/macro_f1")) == len(steps)
        found: dict[str, list[int]] = {}
        for run in runs:
            if run.tags["imgrec.kind"] == "trial":
                number = int(run.tags["imgrec.trial"])
                found.setdefault(run.tags["imgrec.arch"], []).append(number)
        kept = ("imgrec.kind", "imgrec.arch", "imgrec.done")
        return cls(
            result=result,
            runs=Counter(
                (
                    run.tags[kept[0]],
                    run.tags.get(kept[1], ""),
                    run.status,
                    run.tags.get(kept[2], ""),
                )
                for run in runs
                # A decision that was interrupted stays on record beside the one that was carried out.
                if (run.tags["imgrec.kind"], run.status) not in INTERRUPTED
            ),
            trials={arch: sorted(numbers) for arch, numbers in found.items()},
            models={
                model.name: max(int(version.version) for version in model.latest_versions)
                for model in tracking.client.search_registered_models()
            },
        )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of pictures, and the settings."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(("left", "middle", "right")):
        (folder / "data" / name).mkdir(parents=True)
        for index in range(60):
            picture(label, index).save(folder / "data" / name / f"{index}.png")
    (folder / "run.toml").write_text(SETTINGS)
    return folder


def start(folder: Path, pictures: Path, *words: str) -> subprocess.Popen[str]:
    command = [
        "run",
        str(pictures / "run.toml"),
        "--data",
        str(pictures / "data"),
        "--json",
        *words,
    ]
    return subprocess.Popen(
        [*IMGREC, *command], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(folder: Path, pictures: Path, *words: str) -> tuple[Record, str]:
    with start(folder, pictures, *words) as process:
        stdout, stderr = process.communicate(timeout=250)
    assert process.returncode == 0, stderr
    return Record.read(folder, json.loads(stdout)), stderr


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Record:
    """The record of an undisturbed run with a search."""
    return finish(tmp_path_factory.mktemp("searched"), pictures, *SEARCH)[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Record:
    """The record of an undisturbed run without a search."""
    return finish(tmp_path_factory.mktemp("plain"), pictures, *PLAIN)[0]


def count(folder: Path, query: str) -> int:
    """A number from MLflow's database, 0 before it has its tables."""
    try:
        with sqlite3.connect(f"file:{folder}/mlruns/mlflow.db?mode=ro", uri=True) as database:
            return int(database.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def kill_when(
    folder: Path, process: subprocess.Popen[str], happened: Callable[[Path], bool]
) -> None:
    """Kill the driver, and only it, as soon as something has happened."""
    deadline = time.monotonic() + 120
    while not happened(folder):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def in_prepare(folder: Path) -> bool:
    """The store is being built."""
    return bool(list((folder / "mlruns").glob("store/*")))


def in_search(folder: Path) -> bool:
    """Three trials have ended and at least one is running."""
    ended = count(folder, "select count(*) from tags where key = 'imgrec.state'")
    started = count(folder, "select count(*) from tags where key = 'imgrec.trial'")
    return ended >= 3 and started > ended


def in_fit(folder: Path) -> bool:
    """A model is half trained, and has a checkpoint."""
    steps = count(folder, "select count(*) from metrics where key = 'val/macro_f1'")
    return steps >= 20 and bool(list((folder / "mlruns" / "work").rglob("state.safetensors")))


def in_fit_after_search(folder: Path) -> bool:
    """The search is over, and a model of what it found has its first epochs."""
    over = count(folder, "select count(*) from tags where key = 'imgrec.done' and value = 'search'")
    below = "select r.run_uuid from tags r where r.key = 'imgrec.kind' and r.value = 'model'"
    models = count(
        folder,
        f"select count(*) from metrics where key = 'val/macro_f1' and run_uuid in ({below})",
    )
    return over == 1 and models >= 5


def in_register(folder: Path) -> bool:
    """A model has its scores, and is on its way to the registry."""
    return count(folder, "select count(*) from tags where value = 'evaluate'") > 0


def same_ending(record: Record, undisturbed: Record) -> None:
    """The same stages, trials and models."""
    assert record.runs == undisturbed.runs
    assert record.trials == undisturbed.trials
    assert record.models == undisturbed.models
    assert set(record.result) == set(undisturbed.result)


def test_a_driver_killed_in_a_search_and_again_in_a_fit_goes_on(
    pictures: Path, tmp_path: Path
) -> None:
    """Trials that had ended are not run again, the half-trained model continues, and there is one set of runs."""
    words = (*SEARCH, "--arch", "ann")
    for happened in (in_search, in_fit_after_search):
        with start(tmp_path, pictures, *words) as process:
            kill_when(tmp_path, process, happened)
    record, screen = finish(tmp_path, pictures, *words)

    assert record.runs == {
        ("workflow", "", "FINISHED", ""): 1,
        ("search", "ann", "FINISHED", "search"): 1,
        ("trial", "ann", "FINISHED", ""): 4,
        ("model", "ann", "FINISHED", "register"): 1,
        ("decision", "", "FINISHED", ""): 1,
    }
    assert record.trials == {"ann": [0, 1, 2, 3]}
    assert record.models == {"thirds-ann": 1}
    assert "search taken from the record: 4 trials" in screen


@pytest.mark.chaos
@pytest.mark.parametrize("happened", [in_prepare, in_search], ids=["prepare", "search"])
def test_a_driver_killed_before_it_ends_a_search_goes_on(
    happened: Callable[[Path], bool], searched: Record, pictures: Path, tmp_path: Path
) -> None:
    """Trials that had ended are not run again, and there is one set of runs."""
    with start(tmp_path, pictures, *SEARCH) as process:
        kill_when(tmp_path, process, happened)
    record, screen = finish(tmp_path, pictures, *SEARCH)

    same_ending(record, searched)
    assert record.trials == {"ann": [0, 1, 2, 3], "cnn": [0, 1, 2, 3]}
    if happened is in_search:
        assert "the search goes on after" in screen


@pytest.mark.chaos
@pytest.mark.parametrize("happened", [in_fit, in_register], ids=["fit", "register"])
def test_a_driver_killed_on_the_way_to_a_model_goes_on(
    happened: Callable[[Path], bool], plain: Record, pictures: Path, tmp_path: Path
) -> None:
    """The half-trained model continues, and comes to the same scores to the last digit."""
    with start(tmp_path, pictures, *PLAIN) as process:
        kill_when(tmp_path, process, happened)
    record, screen = finish(tmp_path, pictures, *PLAIN)
    tests = [
        {model["arch"]: model["test"] for model in one.result["models"]} for one in (record, plain)
    ]

    same_ending(record, plain)
    assert tests[0] == tests[1]
    assert "going on after epoch" in screen or "trained to the end already" in screen


@pytest.mark.chaos
def test_a_worker_killed_in_a_search_costs_no_trial(
    searched: Record, pictures: Path, tmp_path: Path
) -> None:
    """The same run goes on by itself."""
    with start(tmp_path, pictures, *SEARCH) as process:
        while not in_search(tmp_path):
            assert process.poll() is None
            time.sleep(0.02)
        processes_of(psutil.Process(process.pid), "ray::ImplicitFunc")[0].kill()
        stdout, stderr = process.communicate(timeout=250)
    assert process.returncode == 0, stderr

    same_ending(Record.read(tmp_path, json.loads(stdout)), searched)


def with_one_seed_done(folder: Path) -> bool:
    """One of three models is trained, and the others are not."""
    return count(folder, "select count(*) from tags where key = 'imgrec.done'") >= 1


def in_confirmation(folder: Path) -> bool:
    """One model that confirms a trial has been trained, and others have not."""
    kinds = "from tags as kind join runs using (run_uuid) where kind.key = 'imgrec.kind' and kind.value = 'confirm'"
    return count(folder, f"select count(*) {kinds} and runs.status = 'FINISHED'") >= 1


@pytest.mark.chaos
def test_a_driver_killed_among_seeds_ends_with_the_same_scores(
    pictures: Path, tmp_path: Path
) -> None:
    """What several seeds have come to is as much on record as what one has."""
    words = ("--arch", "ann", "--seeds", "3")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, _ = finish(tmp_path / "whole", pictures, *words)
    with start(tmp_path / "killed", pictures, *words) as process:
        kill_when(tmp_path / "killed", process, with_one_seed_done)
    killed, _ = finish(tmp_path / "killed", pictures, *words)
    (one,), (other,) = whole.result["models"], killed.result["models"]

    assert other["test"] == one["test"]
    assert len(other["seed_runs"]) == len(one["seed_runs"])
    assert killed.runs == whole.runs
    assert killed.models == whole.models


@pytest.mark.chaos
def test_a_driver_killed_in_a_confirmation_confirms_what_is_left(
    pictures: Path, tmp_path: Path
) -> None:
    """Each trial with each seed once, the ones from before the kill among them."""
    words = ("--arch", "ann", "--trials", "4", "--set", "search.confirm=2")

    def confirmations() -> list[RunRecord]:
        tracking = connect(TrackingConfig(), tmp_path / "mlruns", create=False)
        return find_runs(tracking, {"imgrec.kind": "confirm"}, status="FINISHED")

    with start(tmp_path, pictures, *words) as process:
        kill_when(tmp_path, process, in_confirmation)
    before = {run.id for run in confirmations()}
    record, screen = finish(tmp_path, pictures, *words)
    after = confirmations()
    search = record.result["searches"]["ann"]

    assert before
    assert before <= {run.id for run in after}
    assert len({run.tags["imgrec.key"] for run in after}) == len(after)
    assert all(len(scores) == 2 for scores in search["confirmed"].values())
    assert len(after) == 2 * len(search["confirmed"])
    assert "0" in search["confirmed"]
    assert record.trials == {"ann": [0, 1, 2, 3]}
    assert "Traceback" not in screen


@pytest.mark.chaos
def test_a_run_that_nobody_goes_on_with_is_closed(pictures: Path, tmp_path: Path) -> None:
    """Nothing says RUNNING for ever: the next command that looks marks it, and says how to go on."""
    with start(tmp_path, pictures, *PLAIN) as process:
        kill_when(tmp_path, process, in_fit)
    listed = subprocess.run(
        [*IMGREC, "runs", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (run,) = json.loads(listed.stdout)["runs"]
    record = Record.read(tmp_path, {})

    assert run["state"] == "interrupted"
    assert run["command"].startswith("uv run imgrec run ")
    assert {status for _, _, status, _ in record.runs} == {"KILLED"}
