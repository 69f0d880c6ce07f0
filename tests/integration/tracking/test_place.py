"""The database as a file: whole or not there, and found again where its folder was moved."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from imgrec.cache import FOLDER_VARIABLE, cache_folder
from imgrec.classifier import Classifier
from imgrec.config import TrackingConfig
from imgrec.data.decode import encode_png
from imgrec.data.store import Store
from imgrec.errors import TrackingError
from imgrec.tracking.connection import connect, experiment_id
from imgrec.tracking.query import find_runs
from imgrec.tracking.registry import register
from imgrec.tracking.runs import start_run
from imgrec.tracking.versions import fetch_classifier
from tests.integration.tracking.made import NOTHING, tags


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
        # Where nothing is kept.
        env = os.environ | {FOLDER_VARIABLE: str(tmp_path / f"cache{number}")}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
            assert process.stdout
            process.stdout.readline()
            while not list(folder.glob(".mlflow.db.*")) and process.poll() is None:
                time.sleep(0.002)
            time.sleep(0.25 * number)
            process.kill()
        here = connect(TrackingConfig(), folder, create=True)

        assert find_runs(here, {}) == []
        assert list(folder.glob(".mlflow.db.*")) == []


def test_what_is_made_of_a_kept_database_is_as_mlflow_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first record of a machine is made by MLflow, the second is a copy; a damaged copy is passed over."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    dumps, kept = [], None
    for name in ("first", "second", "third"):
        connect(TrackingConfig(), tmp_path / name, create=True)
        with closing(sqlite3.connect(tmp_path / name / "mlflow.db")) as database:
            # But for when the first experiment was made.
            database.execute("UPDATE experiments SET creation_time = 0, last_update_time = 0")
            # MLflow writes the constraints of a table in any order.
            lines = (
                sorted(line.strip(" ,;()") for line in one.splitlines())
                for one in database.iterdump()
            )
            dumps.append(sorted(lines))
        (kept,) = cache_folder().iterdir()
        if name == "second":
            kept.write_bytes(kept.read_bytes()[:100_000])

    assert dumps[1] == dumps[0]
    assert dumps[2] == dumps[0]
    assert kept
    assert kept.stat().st_size > 100_000


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
        register(run, "moved-ann", classifier, encode_png(digits.images[0]), tags(0.9), NOTHING)


def test_a_record_that_was_moved_finds_its_models_again(
    classifier: Classifier, digits: Store, tmp_path: Path
) -> None:
    """Renamed, or copied where the old place is gone; once, with a copy of the database as it was."""
    registered_in(tmp_path / "old", classifier, digits)
    (tmp_path / "old").rename(tmp_path / "new")
    here = connect(TrackingConfig(), tmp_path / "new", create=False)
    folder = fetch_classifier(here, "moved-ann/1")
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
    assert fetch_classifier(here, "moved-ann/1").is_relative_to(tmp_path / "copy")
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
