"""A real MLflow on SQLite in a temporary folder: runs end, champions are the better ones."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from mlflow.exceptions import MlflowException

from imgrec.classifier import Card, Classifier
from imgrec.config import AnnConfig, TrackingConfig
from imgrec.data.decode import encode_png
from imgrec.data.store import Store
from imgrec.errors import TrackingError
from imgrec.models import build_model
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.tracking.connection import Tracking, connect
from imgrec.tracking.liveness import (
    HEARTBEAT,
    OWNER,
    close_dead_runs,
    heartbeat,
    is_alive,
    owner_tags,
    refuse_alive,
)
from imgrec.tracking.registry import fetch_classifier, list_versions, register, version_of
from imgrec.tracking.runs import RunRecord, find_runs, start_run


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """One new database for the module: to make one takes a second."""
    return connect(TrackingConfig(), tmp_path_factory.mktemp("mlruns"), create=True)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """An untrained classifier; tracking does not care how good it is."""
    config = AnnConfig(hidden=(8,))
    card = Card(
        model=config,
        image_shape=(8, 8, 1),
        resize="fill",
        max_pixels=1_000_000,
        statistics=ChannelStatistics((0.3,), (0.4,)),
        class_names=tuple("0123456789"),
    )
    return Classifier(card, build_model(config, (8, 8, 1), 10).state_dict())


def tags(macro_f1: float, fingerprint: str = "a") -> dict[str, str]:
    return {
        "imgrec.arch": "ann",
        "data.fingerprint": fingerprint,
        "data.splits": "s",
        "val/macro_f1": str(macro_f1),
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_no_run_stays_running(tracking: Tracking, error: BaseException | None, status: str) -> None:
    """Whoever opens the UI must see how it ended, also of the runs below."""
    ids = []
    try:
        with start_run(tracking, "ends", "parent", {}) as run:
            ids = [run.id, run.start_child("child", {}).id]
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass

    assert [tracking.client.get_run(run_id).info.status for run_id in ids] == [status] * 2


def test_two_places_do_not_mix(
    tracking: Tracking, classifier: Classifier, digits: Store, tmp_path: Path
) -> None:
    """MLflow remembers where it registered last, in globals and in the environment; we do not."""
    with start_run(tracking, "places", "run", {}) as run:
        register(run, "placed-ann", classifier, encode_png(digits.images[0]), tags(0.9))
    other = connect(TrackingConfig(), tmp_path, create=True)

    assert "placed-ann" in {v.name for v in list_versions(tracking)}
    assert list_versions(other) == []
    assert not [name for name in os.environ if name.startswith("MLFLOW_") and "URI" in name]


def test_several_processes_may_make_the_database_at_once(tmp_path: Path) -> None:
    """MLflow's own first use races, and leaves a database that nobody can use."""
    code = (
        "import sys; from pathlib import Path; from imgrec.config import TrackingConfig; "
        "from imgrec.tracking.connection import connect; "
        "connect(TrackingConfig(), Path(sys.argv[1]), create=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "mlruns")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate()[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], errors


def test_an_interrupt_waits_for_the_end_of_a_transaction(tracking: Tracking) -> None:
    """In the middle it would leave the file locked, for the 20 s that MLflow gives a lock."""
    seen = []
    try:
        with tracking.answering():
            signal.raise_signal(signal.SIGINT)
            seen.append("the rest of the transaction")
    except KeyboardInterrupt:
        seen.append("interrupted")

    assert seen == ["the rest of the transaction", "interrupted"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_settings_scores_and_tables_arrive(tracking: Tracking) -> None:
    """What is logged is what is there."""
    with start_run(tracking, "logs", "run", {"imgrec.kind": "fit"}) as run:
        run.log_params({"train": {"epochs": 3, "betas": [1, 2]}, "seed": 0})
        for epoch in (1, 2):
            run.log_metrics({"val/macro_f1": epoch / 10}, step=epoch)
        run.log_table(("class", "f1"), [("a", 0.5), ("b", 1.0)], "per_class.json")
    data = tracking.client.get_run(run.id).data
    history = tracking.client.get_metric_history(run.id, "val/macro_f1")
    table = json.loads(
        Path(tracking.client.download_artifacts(run.id, "per_class.json")).read_text()
    )

    assert data.params == {"train.epochs": "3", "train.betas": "[1, 2]", "seed": "0"}
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2)]
    assert table == {"columns": ["class", "f1"], "data": [["a", 0.5], ["b", 1.0]]}


def test_the_champion_is_the_best_on_the_same_data(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """A worse model must not be served because it is newer; one for other data must."""
    example = encode_png(digits.images[0])

    def champion_after(macro_f1: float, fingerprint: str) -> int:
        with start_run(tracking, "champions", "run", {}) as run:
            register(run, "some-ann", classifier, example, tags(macro_f1, fingerprint))
        (found,) = [v for v in list_versions(tracking) if v.name == "some-ann" and v.champion]
        return found.version

    assert champion_after(0.9, "a") == 1
    assert champion_after(0.8, "a") == 1
    assert champion_after(0.95, "a") == 3
    assert champion_after(0.5, "other data") == 4


def test_a_registered_model_works_where_ray_is_never_imported(
    tracking: Tracking, classifier: Classifier, digits: Store, tmp_path: Path
) -> None:
    """It is served elsewhere: bytes in, label and probabilities out, and no pickle inside."""
    with start_run(tracking, "served", "run", {}) as run:
        register(run, "served-ann", classifier, encode_png(digits.images[0]), tags(0.9))
    image = tmp_path / "digit.png"
    image.write_bytes(encode_png(digits.images[7]))
    code = f"""
import json, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri({tracking.uri!r})
model = mlflow.pyfunc.load_model("models:/served-ann@champion")
row = model.predict(pd.DataFrame({{"image": [open({str(image)!r}, "rb").read()]}})).iloc[0]
try:
    model.predict(pd.DataFrame({{"image": [b"no picture"]}}))
    refused = ""
except Exception as error:
    refused = str(error)
print(json.dumps([row.to_dict(), "ray" in sys.modules, refused]))
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    row, ray_imported, refused = json.loads(ended.stdout.strip().splitlines()[-1])
    (direct,) = classifier.predict([image.read_bytes()])

    assert row["label"] == direct.label
    assert row["probabilities"] == pytest.approx(direct.probabilities, abs=1e-5)
    assert row["probability"] == pytest.approx(max(direct.probabilities.values()), abs=1e-5)
    assert ray_imported is False
    assert "row 0: not a picture" in refused
    artifacts = fetch_classifier(tracking, "served-ann").parent.parent
    suffixes = {path.suffix for path in artifacts.rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}
    assert (artifacts / "artifacts" / "classifier" / "model.safetensors").exists()


@pytest.mark.parametrize("model", ["nobody", "served-ann/99", "served-ann@nobody", "a b/c@d"])
def test_a_model_that_is_not_there_is_named(tracking: Tracking, model: str) -> None:
    """With the way to see what is."""
    with pytest.raises(TrackingError, match="no such model"):
        fetch_classifier(tracking, model)


def test_a_broken_database_is_an_error_for_people(tmp_path: Path) -> None:
    """Not a traceback of three libraries."""
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, but long enough to be read" * 50)

    with pytest.raises(TrackingError, match="MLflow cannot use it"):
        connect(TrackingConfig(), tmp_path, create=True)


def test_a_deleted_experiment_is_not_written_to(tracking: Tracking) -> None:
    """MLflow keeps its name and would refuse in ten lines."""
    with start_run(tracking, "gone", "run", {}) as run:
        experiment = tracking.client.get_run(run.id).info.experiment_id
    tracking.client.delete_experiment(experiment)

    with pytest.raises(TrackingError, match="was deleted"), start_run(tracking, "gone", "r", {}):
        pass
    with pytest.raises(MlflowException):
        tracking.client.create_experiment("gone")


def test_a_run_whose_process_died_is_closed_with_all_below_it(tmp_path: Path) -> None:
    """It cannot say so itself; a living one is left alone, and refuses a second."""
    here = connect(TrackingConfig(), tmp_path, create=True)
    tags = {"imgrec.kind": "workflow"}
    with start_run(here, "dead", "living", tags | owner_tags()) as living, heartbeat(living):
        with start_run(here, "dead", "dead", tags) as dead:
            child = dead.start_child("child", {})
            grandchild = child.start_child("grandchild", {})
            dead.set_tags({OWNER: f"{socket.gethostname()} 1 123", HEARTBEAT: int(time.time())})
            close_dead_runs(here)
            closed = [here.client.get_run(run.id).info.status for run in (dead, child, grandchild)]
        (alive,) = [r for r in find_runs(here, tags, status="RUNNING") if r.id == living.id]
        refuse_alive(alive)  # this very process may go on with it
        others = alive.tags | {OWNER: _owner_of_parent()}

        assert closed == ["KILLED"] * 3
        assert is_alive(alive)
        with pytest.raises(TrackingError, match=r"going on already, as process \d+.*--fresh"):
            refuse_alive(replace(alive, tags=others))


def test_a_run_says_that_it_is_done_only_when_it_has_ended(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a process that dies in between leaves one that is done and was killed."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with start_run(tracking, "ends", "workflow", {}) as workflow:
        run = workflow.start_child("run", {})
        with monkeypatch.context() as patched:
            patched.setattr(tracking.client, "set_terminated", die)
            with pytest.raises(KeyboardInterrupt):
                run.end("FINISHED", {"imgrec.done": "register"})
        killed = tracking.client.get_run(run.id).data.tags
        run.end("FINISHED", {"imgrec.done": "register"})

    assert "imgrec.done" not in killed
    assert tracking.client.get_run(run.id).data.tags["imgrec.done"] == "register"


@pytest.mark.parametrize(("silent", "alive"), [(5, True), (300, False)])
def test_on_another_machine_silence_tells(silent: float, alive: bool) -> None:
    """There is no process to look at."""
    tags = {OWNER: "elsewhere 7 123", HEARTBEAT: str(int(time.time() - silent))}
    record = RunRecord("id", "name", "0", "RUNNING", 0.0, tags, {})

    assert is_alive(record) == alive


def test_registering_again_after_a_crash_makes_no_second_version(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """The process may have died between the version and the alias."""
    example = encode_png(digits.images[0])
    with start_run(tracking, "again", "run", {}) as run:
        first = register(run, "again-ann", classifier, example, tags(0.9))
        tracking.client.delete_registered_model_alias("again-ann", "champion")
        second = register(run, "again-ann", classifier, example, tags(0.9))

    assert (first.version, second.version) == (1, 1)
    assert version_of(tracking, run.id) == second
    assert second.champion


def test_a_table_that_is_logged_again_replaces_the_first(tracking: Tracking) -> None:
    """MLflow's own would add the rows of a second try to those of the first."""
    with start_run(tracking, "tables", "run", {}) as run:
        for accuracy in (0.5, 0.6):
            run.log_table(("model", "accuracy"), [("ann", accuracy)], "leaderboard.json")
        run.log_table(("a",), [(1,)], "other.json")
    file = tracking.client.download_artifacts(run.id, "leaderboard.json")
    logged = tracking.client.get_run(run.id).data.tags["mlflow.loggedArtifacts"]

    assert json.loads(Path(file).read_text())["data"] == [["ann", 0.6]]
    assert [entry["path"] for entry in json.loads(logged)] == ["leaderboard.json", "other.json"]


def _owner_of_parent() -> str:
    parent = psutil.Process().parent()
    assert parent is not None
    return f"{socket.gethostname()} {parent.pid} {parent.create_time():.0f}"
