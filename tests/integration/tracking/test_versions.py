"""Which versions there are, and how one is fetched: unchanged, or refused by name."""

import shutil

import pytest

from imgrec.classifier import Classifier
from imgrec.data.decode import encode_png
from imgrec.data.store import Store
from imgrec.errors import ClassifierError, TrackingError
from imgrec.tracking.connection import Tracking
from imgrec.tracking.registry import register
from imgrec.tracking.runs import start_run
from imgrec.tracking.tags import ARCH
from imgrec.tracking.versions import fetch_classifier, list_versions, version_of
from tests.integration.tracking.made import NOTHING, tags


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
        register(run, name, classifier, encode_png(digits.images[0]), tags(0.9), NOTHING)
    folder = fetch_classifier(tracking, f"{name}/1")
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
        register(run, "beside-ann", classifier, encode_png(digits.images[0]), tags(0.9), NOTHING)
    versions, others = list_versions(tracking)

    assert others == 2
    assert "beside-ann" in {version.name for version in versions}
    assert not {"it's mine", "foreign"} & {version.name for version in versions}
    client.delete_registered_model("foreign")


def test_a_model_whose_files_are_gone_is_not_on_record(
    tracking: Tracking, classifier: Classifier, digits: Store
) -> None:
    """A run that takes it for done would leave the user without a model."""
    with start_run(tracking, "lost", "run", {}) as run:
        register(run, "lost-ann", classifier, encode_png(digits.images[0]), tags(0.9), NOTHING)
    assert version_of(tracking, run.id)
    shutil.rmtree(fetch_classifier(tracking, "lost-ann/1").parent.parent)

    assert version_of(tracking, run.id) is None


@pytest.mark.parametrize("model", ["nobody", "served-ann/99", "served-ann@nobody", "a b/c@d"])
def test_a_model_that_is_not_there_is_named(tracking: Tracking, model: str) -> None:
    """With the way to see what is."""
    with pytest.raises(TrackingError, match="no such model"):
        fetch_classifier(tracking, model)
