"""Registered models as a server's source."""

import threading
from pathlib import Path

import pytest

from imgrec.classifier import Classifier
from imgrec.config import ServeConfig, load_config
from imgrec.data.decode import encode_png
from imgrec.data.store import Store
from imgrec.errors import ClassifierError, ConfigError, TrackingError
from imgrec.serving.server import Serving
from imgrec.tracking.connection import Tracking
from imgrec.tracking.registry import register
from imgrec.tracking.runs import start_run
from imgrec.tracking.versions import fetch_classifier
from pipelines.serve import RegisteredModels, source_of
from tests.integration.tracking.made import NOTHING, tags


@pytest.fixture
def two_versions(tracking: Tracking, classifier: Classifier, digits: Store) -> str:
    """A model whose first version is champion and whose second is challenger."""
    for _ in range(2):
        with start_run(tracking, "served", "run", {}) as run:
            made = register(
                run, "followed-ann", classifier, encode_png(digits.images[0]), tags(0.9), NOTHING
            )
    tracking.client.set_registered_model_alias("followed-ann", "champion", made.version - 1)
    return str(made.version - 1)


def test_the_server_follows_the_alias(tracking: Tracking, two_versions: str) -> None:
    """The whole way: the alias moves in MLflow, and the other version answers."""
    serving = Serving(RegisteredModels(tracking, ["followed-ann"]), ServeConfig(follow_seconds=0.1))
    serving.open()
    try:
        (model,) = serving.models.all()
        assert (model.name, model.version) == ("followed-ann", two_versions)
        later = str(int(two_versions) + 1)
        tracking.client.set_registered_model_alias("followed-ann", "champion", later)
        for _ in range(200):
            if serving.models.all()[0].version == later:
                break
            threading.Event().wait(0.05)
        assert serving.models.all()[0].version == later
    finally:
        serving.close()


def test_versions_of_one_model_are_told_apart(tracking: Tracking, two_versions: str) -> None:
    """A model goes by its name, unless two versions of it are served."""
    later = int(two_versions) + 1

    def names(*models: str) -> dict[str, str]:
        source = RegisteredModels(tracking, models)
        return {name: source.wanted(name) for name in source.names()}

    assert names("followed-ann") == {"followed-ann": two_versions}
    assert names(f"models:/followed-ann/{later}") == {"followed-ann": str(later)}
    assert names("followed-ann", "followed-ann@challenger") == {
        "followed-ann@champion": two_versions,
        "followed-ann@challenger": str(later),
    }
    with pytest.raises(ConfigError, match="named twice"):
        RegisteredModels(tracking, ["followed-ann", "followed-ann@champion"])
    with pytest.raises(TrackingError, match="no such model"):
        names("nobody-ann")


def test_a_changed_file_is_not_served(tracking: Tracking, two_versions: str) -> None:
    """As it is not loaded by anything else."""
    source = RegisteredModels(tracking, ["followed-ann"])
    weights = fetch_classifier(tracking, "followed-ann") / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with (
            pytest.raises(ClassifierError, match="was changed since the model was registered"),
            source.fetch("followed-ann", two_versions),
        ):
            pass
    finally:
        weights.write_bytes(content)


def test_what_is_to_be_served_is_named_or_every_champion(
    tracking: Tracking, two_versions: str, tmp_path: Path
) -> None:
    """Folders are served without any MLflow; both kinds together have no common record."""
    config = load_config(None, [f"storage='{tmp_path}'", f"tracking.uri='{tracking.uri}'"])
    folder = fetch_classifier(tracking, "followed-ann")

    assert source_of(config, []).wanted("followed-ann") == two_versions
    assert source_of(config, [str(folder)]).names() == [folder.name]
    with pytest.raises(ConfigError, match="name one kind"):
        source_of(config, [str(folder), "followed-ann"])
