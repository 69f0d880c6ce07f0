"""How a classifier becomes a version of a registered model."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from imgrec.classifier import Classifier
from imgrec.data.decode import encode_png
from imgrec.data.store import Store
from imgrec.errors import ClassifierError, TrackingError
from imgrec.evaluation.golden import MOST_DIFFERENT
from imgrec.tracking.connection import Tracking
from imgrec.tracking.doors import ask_all_doors
from imgrec.tracking.registry import register
from imgrec.tracking.runs import start_run
from imgrec.tracking.tags import PARITY
from imgrec.tracking.versions import fetch_classifier, find_version, version_of
from tests.integration.tracking.made import NOTHING, tags


def test_a_new_version_is_challenger(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """Who is champion is decided elsewhere, and a champion stays so."""
    example = encode_png(digits.images[0])

    def registered() -> tuple[int, int]:
        with start_run(tracking, "champions", "run", {}) as run:
            made = register(run, "some-ann", classifier, example, tags(0.9), NOTHING)
        return made.version, made.champion_version

    assert registered() == (1, 0)
    tracking.client.set_registered_model_alias("some-ann", "champion", 1)
    assert registered() == (2, 1)
    aliases = tracking.client.get_registered_model("some-ann").aliases
    assert {name: int(one) for name, one in aliases.items()} == {"champion": 1, "challenger": 2}


def test_an_error_of_the_server_is_told(
    tracking: Tracking, classifier: Classifier, digits: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That MLflow does not say who is champion does not mean that nobody is."""
    example = encode_png(digits.images[0])
    with start_run(tracking, "errors", "run", {}) as run:
        register(run, "error-ann", classifier, example, tags(0.9), NOTHING)

    def fail(*_: object) -> None:
        msg = "the database is away"
        raise MlflowException(msg)

    with start_run(tracking, "errors", "run", {}) as run, monkeypatch.context() as patched:
        patched.setattr(tracking.client, "get_registered_model", fail)
        with pytest.raises(TrackingError, match="the database is away"):
            register(run, "error-ann", classifier, example, tags(0.1), NOTHING)
        patched.setattr(tracking.client, "get_model_version_by_alias", fail)
        with pytest.raises(TrackingError, match="the database is away"):
            fetch_classifier(tracking, "error-ann")


def test_a_registered_model_works_where_ray_is_never_imported(
    tracking: Tracking, classifier: Classifier, digits: Store, tmp_path: Path
) -> None:
    """It is served elsewhere: bytes in, label and probabilities out, and no pickle inside."""
    with start_run(tracking, "served", "run", {}) as run:
        register(run, "served-ann", classifier, encode_png(digits.images[0]), tags(0.9), NOTHING)
    image = tmp_path / "digit.png"
    image.write_bytes(encode_png(digits.images[7]))
    code = f"""
import json, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri({tracking.uri!r})
model = mlflow.pyfunc.load_model("models:/served-ann/1")
row = model.predict(pd.DataFrame({{"image": [open({str(image)!r}, "rb").read()]}})).iloc[0]
try:
    model.predict(pd.DataFrame({{"image": [b"no picture"]}}), params={{"on_error": "raise"}})
    refused = ""
except Exception as error:
    refused = str(error)
mixed = pd.DataFrame({{"image": [b"no picture", open({str(image)!r}, "rb").read()]}})
answers = model.predict(mixed)
labels = model.predict(mixed, params={{"output": "label"}}).tolist()
shares = model.predict(mixed, params={{"output": "probabilities"}})
beside = [answers["error"].tolist(), answers["label"].tolist(), labels, shares.isna().all(axis=1).tolist()]
print(json.dumps([row.to_dict(), "ray" in sys.modules, refused, beside]))
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    row, ray_imported, refused, beside = json.loads(ended.stdout.strip().splitlines()[-1])
    (direct,) = classifier.predict([image.read_bytes()])

    assert row["label"] == direct.label
    assert row["probabilities"] == pytest.approx(direct.probabilities, abs=1e-5)
    assert row["probability"] == pytest.approx(max(direct.probabilities.values()), abs=1e-5)
    assert ray_imported is False
    assert "row 0: not a picture" in refused
    (unread, answered), *others = beside
    assert "not a picture" in unread
    assert answered is None
    assert others == [[None, direct.label], [None, direct.label], [True, False]]
    artifacts = fetch_classifier(tracking, "served-ann/1").parent.parent
    suffixes = {path.suffix for path in artifacts.rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}
    assert (artifacts / "artifacts" / "classifier" / "model.safetensors").exists()


def test_registering_again_after_a_crash_makes_no_second_version(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """The process may have died between the version and the alias."""
    example = encode_png(digits.images[0])
    with start_run(tracking, "again", "run", {}) as run:
        first = register(run, "again-ann", classifier, example, tags(0.9), NOTHING)
        tracking.client.delete_registered_model_alias("again-ann", "challenger")
        second = register(run, "again-ann", classifier, example, tags(0.9), NOTHING)

    assert (first.version, second.version) == (1, 1)
    assert version_of(tracking, run.id) == second
    aliases = tracking.client.get_registered_model("again-ann").aliases
    assert {name: int(one) for name, one in aliases.items()} == {"challenger": 1}


def test_a_classifier_that_answers_otherwise_where_it_is_loaded_is_not_registered(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """Nothing of it is left in the registry; the certificate of one that does not is on its version."""
    example = encode_png(digits.images[0])
    wrong = Classifier(classifier.card, classifier.model.state_dict())
    wrong.recipe.scale = wrong.recipe.scale * 2  # what is saved is the card, and that is right
    with start_run(tracking, "parity", "run", {}) as run:
        with pytest.raises(ClassifierError, match=r"saved it answers differently, by .* of a prob"):
            register(run, "parity-ann", wrong, example, tags(0.9), NOTHING)
        assert not tracking.client.search_registered_models("name = 'parity-ann'")
        register(run, "parity-ann", classifier, example, tags(0.9), NOTHING)
    told = json.loads(tracking.client.get_model_version("parity-ann", "1").tags[PARITY])

    assert told["pictures"] > 20
    assert told["largest"] <= MOST_DIFFERENT


def test_the_served_model_says_what_it_is_asked_for(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """All, labels or probabilities; for other frequencies of the classes; and what makes no sense is refused."""
    contents = [encode_png(image) for image in digits.images[:5]]
    even = classifier.with_card(class_shares=(0.1,) * 10)
    with start_run(tracking, "outputs", "run", {}) as run:
        register(run, "outputs-ann", even, contents[0], tags(0.9), NOTHING)
    tracking.use()
    model = mlflow.pyfunc.load_model("models:/outputs-ann/1")
    table = pd.DataFrame({"image": contents})
    direct = even.predict(contents)

    def ask(**params: str) -> Any:
        return model.predict(table, params=params)

    assert ask(output="label").tolist() == [one.label for one in direct]
    found = ask(output="probabilities")
    assert list(found.columns) == list("0123456789")
    np.testing.assert_allclose(found, [list(one.probabilities.values()) for one in direct])
    assert set(ask()["abstained"]) == {False}
    only = ask(output="label", priors=json.dumps({"3": 1}))
    assert only.tolist() == ["3"] * 5
    for params, words in (
        ({"output": "labels"}, "must be one of all, label, probabilities"),
        ({"priors": "3"}, "write cat=0.9"),
        ({"priors": '{"10": 1}'}, "10 is no class"),
        ({"on_error": "skip"}, "must be one of row, raise"),
    ):
        with pytest.raises(MlflowException, match=words):
            ask(**params)


def test_mlflows_own_evaluation_works_on_what_is_registered(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """The call that README shows."""
    contents = [encode_png(image) for image in digits.images[:40]]
    labels = [str(label) for label in digits.labels[:40]]
    with start_run(tracking, "evaluated", "run", {}) as run:
        register(run, "evaluated-ann", classifier, contents[0], tags(0.9), NOTHING)
    tracking.use()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow, about itself
        found = mlflow.models.evaluate(
            "models:/evaluated-ann/1",
            pd.DataFrame({"image": contents, "label": labels}),
            targets="label",
            model_type="classifier",
            evaluator_config={"log_explainer": False},
            model_config={"output": "label"},
        )
    right = [
        one.label == label for one, label in zip(classifier.predict(contents), labels, strict=True)
    ]

    assert found.metrics["accuracy_score"] == pytest.approx(np.mean(right))


def test_every_door_gives_the_answers_of_the_day_it_was_registered(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """Loaded, as MLflow loads it, and over HTTP."""
    with start_run(tracking, "doors", "run", {}) as run:
        register(run, "doors-ann", classifier, encode_png(digits.images[0]), tags(0.9), NOTHING)
    doors = ask_all_doors(tracking, find_version(tracking, "doors-ann/1"))

    assert set(doors) == {"loaded", "as MLflow loads it", "over HTTP"}
    assert all(one.holds and one.pictures > 20 for one in doors.values())
