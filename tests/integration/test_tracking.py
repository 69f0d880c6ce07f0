"""A real MLflow on SQLite in a temporary folder: runs end, champions are the better ones."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.exceptions import MlflowException

from imgrec.classifier import Card, Classifier
from imgrec.config import AnnConfig, TrackingConfig
from imgrec.data.decode import encode_png
from imgrec.data.store import Store
from imgrec.errors import ClassifierError, TrackingError
from imgrec.models import build_model
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.tracking import connection, turns
from imgrec.tracking.connection import Tracking, connect, experiment_id
from imgrec.tracking.liveness import (
    close_dead_runs,
    heartbeat,
    is_alive,
    owner_is_alive,
    owner_of,
    owner_tags,
    refuse_alive,
)
from imgrec.tracking.query import RunRecord, find_runs
from imgrec.tracking.registry import (
    SHOWN_SCORES,
    fetch_classifier,
    list_versions,
    register,
    version_of,
)
from imgrec.tracking.runs import start_run
from imgrec.tracking.tags import ARCH, HEARTBEAT, OWNER
from imgrec.tracking.turns import one_at_a_time


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


def tags(macro_f1: float, fingerprint: str = "a", splits: str = "s") -> dict[str, str]:
    return {
        "imgrec.arch": "ann",
        "data.fingerprint": fingerprint,
        "data.splits": splits,
        "code.version": "0",
        "val/macro_f1": str(macro_f1),
        **{f"test/{score}": "0.5" for score in SHOWN_SCORES},
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

    assert "placed-ann" in {v.name for v in list_versions(tracking)[0]}
    assert list_versions(other) == ([], 0)
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


def test_a_version_becomes_champion_only_over_one_that_was_scored_on_the_same_pictures(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """Any model of another seed or of other data could else push out a better one, unseen."""
    example = encode_png(digits.images[0])

    def registered(*how: Any) -> tuple[int, str]:
        with start_run(tracking, "champions", "run", {}) as run:
            made = register(run, "some-ann", classifier, example, tags(*how))
        versions, _ = list_versions(tracking)
        (found,) = [v for v in versions if v.name == "some-ann" and v.champion]
        assert made.champion is (found.version == made.version)
        return found.version, made.why_not

    assert registered(0.9, "a") == (1, "")
    assert registered(0.8, "a")[0] == 1
    assert registered(0.95, "a") == (3, "")
    for how in ((0.99, "other data"), (0.99, "a", "other splits")):
        champion, why_not = registered(*how)
        assert champion == 3
        assert "other pictures" in why_not
        assert "set_registered_model_alias" in why_not


def test_an_error_of_the_server_makes_no_champion(
    tracking: Tracking, classifier: Classifier, digits: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That MLflow does not say who is champion does not mean that nobody is."""
    example = encode_png(digits.images[0])
    with start_run(tracking, "errors", "run", {}) as run:
        register(run, "error-ann", classifier, example, tags(0.9))

    def fail(*_: object) -> None:
        msg = "the database is away"
        raise MlflowException(msg)

    with start_run(tracking, "errors", "run", {}) as run, monkeypatch.context() as patched:
        patched.setattr(tracking.client, "get_registered_model", fail)
        with pytest.raises(TrackingError, match="the database is away"):
            register(run, "error-ann", classifier, example, tags(0.1))
        patched.setattr(tracking.client, "get_model_version_by_alias", fail)
        with pytest.raises(TrackingError, match="the database is away"):
            fetch_classifier(tracking, "error-ann")


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("artifacts/classifier/model.safetensors", "was changed"),
        ("served_model.py", "was changed"),
        ("artifacts/classifier/classifier.json", "is gone"),
        ("code/imgrec/extra.py", "was added"),
    ],
)
def test_a_registered_model_whose_files_were_changed_is_refused_by_name(
    tracking: Tracking, classifier: Classifier, digits: Store, file: str, how: str
) -> None:
    """Whoever can write to the artifacts must not choose what is answered, or run."""
    name = f"changed-{file.count('/')}{len(file)}"
    with start_run(tracking, "changed", "run", {}) as run:
        register(run, name, classifier, encode_png(digits.images[0]), tags(0.9))
    folder = fetch_classifier(tracking, name)
    root = folder.parent.parent
    path = root / file
    match how:
        case "is gone":
            path.unlink()
        case _:
            path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")

    with pytest.raises(ClassifierError, match=rf"{file} {how} since"):
        fetch_classifier(tracking, f"models:/{name}/1")


def test_what_others_wrote_into_the_same_mlflow_is_passed_over(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """A name with a quote in it, or a tag without a number, must not end a list."""
    client = tracking.client
    client.create_registered_model("it's mine")
    client.create_registered_model("foreign")
    for some in ({ARCH: "cnn"}, {**tags(0.9), "test/accuracy": "high"}, {"else": "x"}):
        client.create_model_version("foreign", "file:///tmp", tags=some)
    with start_run(tracking, "others", "run", {}) as run:
        register(run, "beside-ann", classifier, encode_png(digits.images[0]), tags(0.9))
    versions, others = list_versions(tracking)

    assert others == 2
    assert "beside-ann" in {version.name for version in versions}
    assert not {"it's mine", "foreign"} & {version.name for version in versions}
    client.delete_registered_model("foreign")


@pytest.mark.parametrize(
    ("owner", "beat"),
    [
        ("HERE", "0"),
        ("HERE abc 1", "0"),
        ("HERE 99999999999999 1", "0"),
        ("HERE PID", "0"),
        ("elsewhere 1 1", "soon"),
        ("", ""),
    ],
)
def test_owners_that_others_wrote_are_nobody(owner: str, beat: str) -> None:
    """Not a traceback, and nobody who lives."""
    named = owner.replace("HERE", socket.gethostname()).replace("PID", str(os.getpid()))

    assert not owner_is_alive(named, beat)


def test_a_step_of_the_clock_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspended laptop, or NTP: the time of a process's birth moves, and it was begun twice."""
    written = owner_tags()[OWNER]
    moved = psutil.boot_time() + 5
    for module in (psutil, psutil._psplatform):
        monkeypatch.setattr(module, "boot_time", lambda: moved)
    monkeypatch.setattr(psutil._psplatform, "BOOT_TIME", moved, raising=False)

    assert owner_is_alive(written, "0")


class Served(Tracking):
    """A record whose API alone can decide, as that of a server."""

    @property
    def is_local(self) -> bool:
        return False


@pytest.mark.parametrize("kind", [Tracking, Served])
def test_of_those_who_begin_in_the_same_moment_one_is_inside_at_a_time(
    tracking: Tracking, kind: type[Tracking]
) -> None:
    """Else both begin the same run: six times of six."""
    inside, most = [0], [0]
    record = kind(tracking.uri, tracking.registry, tracking.client, tracking.artifacts)
    barrier = threading.Barrier(4)
    experiment_id(record, "queue")

    def enter() -> None:
        barrier.wait()
        for _ in range(3):
            with one_at_a_time(record, "queue", "key"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.02)
                inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    place = tracking.client.get_experiment_by_name("queue")

    assert most == [1]
    assert not [name for name in place.tags if name.startswith("imgrec.begin.key.")]


def test_one_that_died_in_the_queue_keeps_nobody(tracking: Tracking) -> None:
    """Kill -9 leaves its number there."""
    record = Served(tracking.uri, tracking.registry, tracking.client, tracking.artifacts)
    place = experiment_id(record, "queue")
    dead = f"0 {int(time.time())} {socket.gethostname()} 1 another-boot:1"
    tracking.client.set_experiment_tag(place, "imgrec.begin.dead.x", dead)
    began = time.monotonic()
    with one_at_a_time(record, "queue", "dead"):
        pass

    assert time.monotonic() - began < 10


def test_one_that_died_on_another_machine_is_passed_over_when_it_was_silent(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our own clock: theirs may be minutes ahead. What it left is removed."""
    monkeypatch.setattr(turns, "SILENCE_OF_THE_DEAD", 1.0)
    record = Served(tracking.uri, tracking.registry, tracking.client, tracking.artifacts)
    place = experiment_id(record, "queue")
    tracking.client.set_experiment_tag(place, "imgrec.begin.far.x", "1 1 elsewhere 1 boot:1")
    began = time.monotonic()
    with one_at_a_time(record, "queue", "far"):
        pass

    assert 1 <= time.monotonic() - began < 10
    tags = tracking.client.get_experiment_by_name("queue").tags
    assert not [name for name in tags if name.startswith("imgrec.begin.far.")]


def test_one_that_lives_on_another_machine_is_waited_for(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tag changes, however long ago it says that it was written."""
    monkeypatch.setattr(turns, "SILENCE_OF_THE_DEAD", 1.0)
    record = Served(tracking.uri, tracking.registry, tracking.client, tracking.artifacts)
    place = experiment_id(record, "queue")

    def live() -> None:
        for beat in range(6):
            tracking.client.set_experiment_tag(
                place, "imgrec.begin.lives.x", f"1 {beat} elsewhere 1 boot:1"
            )
            time.sleep(0.5)
        tracking.client.delete_experiment_tag(place, "imgrec.begin.lives.x")

    other = threading.Thread(target=live)
    other.start()
    time.sleep(0.2)
    with one_at_a_time(record, "queue", "lives"):
        assert not other.is_alive() or "x" not in str(
            [n for n in tracking.client.get_experiment(place).tags if n.endswith("lives.x")]
        )
    other.join()


def test_a_database_is_whole_or_not_there(tmp_path: Path) -> None:
    """Killed in the second that MLflow takes to make it, a run left what no later command could use."""
    code = (
        "import sys; from pathlib import Path; from imgrec.config import TrackingConfig; "
        "from imgrec.tracking.connection import connect; print('ready', flush=True); "
        "connect(TrackingConfig(), Path(sys.argv[1]), create=True)"
    )
    for number in range(4):
        folder = tmp_path / str(number)
        command = [sys.executable, "-c", code, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            process.stdout.readline()
            while not list(folder.glob(".mlflow.db.*")) and process.poll() is None:
                time.sleep(0.002)
            time.sleep(0.25 * number)
            process.kill()
        here = connect(TrackingConfig(), folder, create=True)

        assert find_runs(here, {}) == []
        assert list(folder.glob(".mlflow.db.*")) == []


def test_a_half_made_database_is_set_aside(tmp_path: Path) -> None:
    """An earlier version left one; it holds nothing."""
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    with pytest.raises(TrackingError, match="half made, by a process that was killed"):
        connect(TrackingConfig(), tmp_path, create=False)
    here = connect(TrackingConfig(), tmp_path, create=True)

    assert "half made" in here.note
    assert find_runs(here, {}) == []
    assert len(list(tmp_path.glob("mlflow.db.half-made-*"))) == 1


@pytest.mark.parametrize("create", [True, False])
def test_the_database_of_another_program_is_left_alone(tmp_path: Path, create: bool) -> None:
    """It is refused, and neither renamed nor filled with MLflow's tables."""
    file = tmp_path / "app.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE customers (name TEXT)")
    content = file.read_bytes()
    with pytest.raises(TrackingError, match=r"database of another program \(it holds customers\)"):
        connect(TrackingConfig(uri=f"sqlite:///{file}"), tmp_path, create=create)

    assert file.read_bytes() == content


def test_an_empty_record_of_another_mlflow_is_not_set_aside(tmp_path: Path) -> None:
    """Only what holds nothing at all is: here MLflow says itself what to do."""
    connect(TrackingConfig(), tmp_path / "made", create=True)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tmp_path / "made" / "mlflow.db", other)
    with closing(sqlite3.connect(other / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'another'")
    with pytest.raises(TrackingError, match="MLflow cannot use it"):
        connect(TrackingConfig(), other, create=True)

    assert not list(other.glob("*half-made*"))


def registered_in(folder: Path, classifier: Classifier, digits: Store) -> None:
    here = connect(TrackingConfig(), folder, create=True)
    with start_run(here, "moves", "run", {}) as run:
        register(run, "moved-ann", classifier, encode_png(digits.images[0]), tags(0.9))


def test_a_record_that_was_moved_finds_its_models_again(
    classifier: Classifier, digits: Store, tmp_path: Path
) -> None:
    """Renamed, or copied where the old place is gone; once, with a copy of the database as it was."""
    registered_in(tmp_path / "old", classifier, digits)
    (tmp_path / "old").rename(tmp_path / "new")
    here = connect(TrackingConfig(), tmp_path / "new", create=False)
    folder = fetch_classifier(here, "moved-ann")
    again = connect(TrackingConfig(), tmp_path / "new", create=False)

    assert "was moved here from" in here.note
    assert folder.is_relative_to(tmp_path / "new")
    assert Classifier.load(folder).card == classifier.card
    assert again.note == ""
    assert len(list((tmp_path / "new").glob("mlflow.db.before-move-*"))) == 1


def test_a_copy_beside_the_original_keeps_to_itself(
    classifier: Classifier, digits: Store, tmp_path: Path
) -> None:
    """Else what is trained in the copy would lie in the folder of the original."""
    registered_in(tmp_path / "old", classifier, digits)
    before = (tmp_path / "old" / "mlflow.db").read_bytes()
    shutil.copytree(tmp_path / "old", tmp_path / "copy")
    here = connect(TrackingConfig(), tmp_path / "copy", create=False)

    assert f"is a copy of the one in {tmp_path / 'old'}" in here.note
    assert fetch_classifier(here, "moved-ann").is_relative_to(tmp_path / "copy")
    assert connect(TrackingConfig(), tmp_path / "old", create=False).note == ""
    assert (tmp_path / "old" / "mlflow.db").read_bytes() == before


def test_two_paths_to_one_folder_rewrite_nothing(
    classifier: Classifier, digits: Store, tmp_path: Path
) -> None:
    """As two mounts of one storage are: each would rewrite what the other wrote."""
    registered_in(tmp_path / "old", classifier, digits)
    (tmp_path / "other").symlink_to(tmp_path / "old")
    before = (tmp_path / "old" / "mlflow.db").read_bytes()
    here = connect(TrackingConfig(), tmp_path / "other", create=False)

    assert here.note == ""
    assert (tmp_path / "old" / "mlflow.db").read_bytes() == before


def test_the_artifacts_of_another_storage_keep_their_addresses(
    tmp_path: Path, classifier: Classifier, digits: Store
) -> None:
    """Its disk may only be away for now: what was moved is the place of the record, or nothing."""
    registered_in(tmp_path / "here", classifier, digits)
    uri = f"sqlite:///{tmp_path / 'here' / 'mlflow.db'}"
    other = connect(TrackingConfig(uri=uri), tmp_path / "away", create=True)
    for name in ("more", "runs", "than here"):
        experiment_id(other, name)
    again = connect(TrackingConfig(), tmp_path / "here", create=False)

    assert again.note == ""
    found = again.client.get_experiment_by_name("more").artifact_location
    assert found == (tmp_path / "away" / "artifacts").as_uri()


def test_another_mount_of_the_same_storage_is_not_rewritten(
    classifier: Classifier, digits: Store, tmp_path: Path
) -> None:
    """From two machines under two paths each would rewrite what the other wrote."""
    registered_in(tmp_path / "old", classifier, digits)
    note = tmp_path / "old" / "place.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"host": "another"}))
    (tmp_path / "old").rename(tmp_path / "new")

    with pytest.raises(TrackingError, match="mount it under that path here too"):
        connect(TrackingConfig(), tmp_path / "new", create=False)
    (tmp_path / "new" / "place.json").unlink()
    assert connect(TrackingConfig(), tmp_path / "new", create=False).note


def test_a_model_whose_files_are_gone_is_not_on_record(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """A run that takes it for done would leave the user without a model."""
    with start_run(tracking, "lost", "run", {}) as run:
        register(run, "lost-ann", classifier, encode_png(digits.images[0]), tags(0.9))
    assert version_of(tracking, run.id)
    shutil.rmtree(fetch_classifier(tracking, "lost-ann").parent.parent)

    assert version_of(tracking, run.id) is None


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
    return owner_of(os.getppid())


@contextmanager
def another_program_holds(file: Path) -> Iterator[sqlite3.Connection]:
    """The exclusive lock of an SQLite file."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other
        if other.in_transaction:
            other.execute("ROLLBACK")


def test_what_is_recorded_waits_for_a_program_that_holds_the_lock(tmp_path: Path) -> None:
    """As a backup does, or a person in a viewer; longer than MLflow itself would wait, if need be."""
    tracking = connect(TrackingConfig(), tmp_path, create=True)
    with start_run(tracking, "locked", "one", {}) as run:
        with another_program_holds(tmp_path / "mlflow.db") as other:
            started = time.monotonic()
            thread = threading.Thread(target=run.set_tags, args=({"a": "b"},))
            thread.start()
            thread.join(timeout=1.0)
            assert thread.is_alive()
            other.execute("ROLLBACK")
            thread.join()
        assert time.monotonic() - started >= 1.0
    [record] = find_runs(tracking, {"a": "b"})
    assert record.status == "FINISHED"


def test_a_lock_that_is_held_for_ever_ends_a_run_in_one_line_and_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is closed by whoever comes next, as one whose process died."""
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.5)
    tracking = connect(TrackingConfig(), tmp_path, create=True)
    started = time.monotonic()
    with (  # noqa: PT012 - the lock has to outlive the run
        ExitStack() as stack,
        pytest.raises(TrackingError, match=r"mlflow.db: another program holds its lock") as caught,
        start_run(tracking, "locked", "one", {}) as run,
    ):
        stack.enter_context(another_program_holds(tmp_path / "mlflow.db"))
        run.set_tags({"a": "b"})
    assert time.monotonic() - started < 2
    assert "\n" not in str(caught.value)


def test_a_command_that_begins_does_not_wait_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has been done yet that could be lost."""
    monkeypatch.setattr(connection, "PATIENCE_AT_START_SECONDS", 0.5)
    connect(TrackingConfig(), tmp_path, create=True)
    with (
        another_program_holds(tmp_path / "mlflow.db"),
        pytest.raises(TrackingError, match="end that one"),
    ):
        connect(TrackingConfig(), tmp_path, create=False)
