"""A registered model found by a process beside this one."""

from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from imgrec.classifier import Classifier
from imgrec.config import TrackingConfig
from imgrec.data.decode import encode_png
from imgrec.data.store import Store
from imgrec.errors import ClassifierError, TrackingError
from imgrec.tracking import finding
from imgrec.tracking.connection import Tracking
from imgrec.tracking.finding import registered_folders
from imgrec.tracking.registry import register
from imgrec.tracking.runs import start_run
from imgrec.tracking.versions import fetch_classifier
from tests.integration.tracking.made import NOTHING, tags


@pytest.fixture
def found(tracking: Tracking, classifier: Classifier, digits: Store) -> str:
    """The name of a model that is registered for one test."""
    name = f"found-{uuid4().hex}"
    with start_run(tracking, "found", "run", {}) as run:
        register(run, name, classifier, encode_png(digits.images[0]), tags(0.9), NOTHING)
    return name


def test_another_process_says_where_a_model_lies(
    tracking: Tracking, found: str, tmp_path: Path
) -> None:
    """Where this one would find it; and nothing is left of that process."""
    config, before = TrackingConfig(uri=tracking.uri), psutil.Process().children()
    with registered_folders() as ask:
        folder = ask(config, tmp_path, f"{found}/1")()

    assert folder == fetch_classifier(tracking, f"{found}/1")
    assert psutil.Process().children() == before


def test_what_it_refuses_is_raised_here(tracking: Tracking, found: str, tmp_path: Path) -> None:
    """As if this process had asked: a name that nobody has, files that were changed, a record that is not there."""
    config = TrackingConfig(uri=tracking.uri)
    with (
        registered_folders() as ask,
        pytest.raises(TrackingError, match="nobody: no such model"),
    ):
        ask(config, tmp_path, "nobody")()
    with (
        registered_folders() as ask,
        pytest.raises(TrackingError, match=r"nowhere.*mlflow\.db"),
    ):
        ask(TrackingConfig(), tmp_path / "nowhere", found)()
    (fetch_classifier(tracking, f"{found}/1") / "more.txt").write_text("?")
    with (
        registered_folders() as ask,
        pytest.raises(ClassifierError, match=r"more\.txt was added"),
    ):
        ask(config, tmp_path, f"{found}/1")()


def test_a_process_that_ends_without_an_answer_is_no_answer(
    tracking: Tracking, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours, or a kill: it is not waited for, and its status is told."""
    monkeypatch.setattr(finding, "ENTRY", "import os; os._exit(7)")
    with (
        registered_folders() as ask,
        pytest.raises(RuntimeError, match="ended with status 7"),
    ):
        ask(TrackingConfig(uri=tracking.uri), tmp_path, found)()
