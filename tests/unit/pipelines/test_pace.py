"""What a time for training may choose, and for whom it holds that it was measured."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgrec.config import load_config
from pipelines.pace import _networks, _settings, at_known_pace
from pipelines.prepare import Prepared, SpentBudget, network_of, prepare, workers_of
from pipelines.record.ledger import Begun
from tests.conftest import no_progress

BUDGET = "train.budget='8m'"


@pytest.fixture(autouse=True)
def _no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and nobody to ask."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def prepared(source: str | Path, storage: Path, *settings: str) -> Prepared:
    changes = [f"data.source='{source}'", f"storage='{storage}'", "archs=['cnn']", *settings]
    return prepare(load_config(None, changes), no_progress)


@pytest.mark.parametrize(
    ("written", "epochs", "settings"),
    [
        ("auto", 1, {"train.finetune": "probe"}),
        ("auto", 5, {"train.finetune": "full", "train.epochs": 5}),
        ("full", 2, {"train.epochs": 2}),
    ],
)
def test_a_network_with_weights_is_probed_or_fine_tuned_as_the_time_allows(
    make_large_photos: Callable[[], Path],
    tmp_path: Path,
    written: str,
    epochs: int,
    settings: dict[str, Any],
) -> None:
    """Not as its operations would have it; and never another network."""
    data = prepared(make_large_photos(), tmp_path, BUDGET, f"cnn.train.finetune='{written}'")
    branch = data.config.branch("cnn")
    networks = _networks(branch, data.specs["cnn"])
    specs = [data.spec_of(one) for one in networks]

    assert [spec.train.finetune for spec in specs] == ["full"]
    assert specs[0].train.epochs == 13
    assert _settings(branch, networks[0], epochs, specs) == settings
    assert data.spec_of(branch.at_pace(settings)).train.epochs == epochs


def test_of_a_compact_network_the_size_is_written_whichever_was_chosen(
    make_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """So that no search tries another, for which there may be no time."""
    data = prepared(make_photos(), tmp_path, BUDGET, "search.trials=3")
    branch = data.config.branch("cnn")
    networks = _networks(branch, data.specs["cnn"])
    specs = [data.spec_of(one) for one in networks]
    chosen = [_settings(branch, one, 7, specs) for one in networks]

    assert [one["model.widths"] for one in chosen] == [(32, 128, 256), (64, 256, 256)]
    assert "model.widths" in {one.key for one in branch.space}
    assert "model.widths" not in {one.key for one in branch.at_pace(chosen[0]).space}


def test_a_search_keeps_its_space_until_the_time_has_said_what_is_trained(
    make_large_photos: Callable[[], Path], tmp_path: Path
) -> None:
    """By its operations it would be a probe, of which nothing can be searched."""
    settings = [BUDGET, "search.trials=3", "cnn.space.train.learning_rate=[1e-4, 1e-3]"]
    data = prepared(make_large_photos(), tmp_path, *settings)
    spec = data.specs["cnn"]
    full = data.at_pace({"cnn": pace_of(data, {"train.finetune": "full", "train.epochs": 4})}, [])
    probe = data.at_pace({"cnn": pace_of(data, {"train.finetune": "probe"})}, [])

    assert spec.weights
    assert "train.learning_rate" in {one.key for one in full.config.branch("cnn").space}
    assert "train.learning_rate" not in {one.key for one in probe.config.branch("cnn").space}
    assert [note for note in probe.notes if "its space has no effect" in note]
    assert not [note for note in full.notes if "its space has no effect" in note]


def pace_of(data: Prepared, settings: dict[str, Any]) -> SpentBudget:
    return SpentBudget(settings, network_of(data.specs["cnn"]), workers_of(data))


def test_what_was_measured_holds_for_the_same_pictures_network_and_workers(
    tmp_path: Path,
) -> None:
    """Else it is measured again; but a run that goes on, on other workers too, trains on what it has begun."""
    data = prepared("digits", tmp_path, BUDGET)
    pace = pace_of(data, {"train.epochs": 7})
    begun = Begun({}, paces={"cnn": pace}, measured_for=data.store.fingerprint, is_over=True)
    fewer = Begun(
        {}, paces={"cnn": replace(pace, workers="2 on GPUs")}, measured_for=data.store.fingerprint
    )

    assert begun.paces_for(data) == {"cnn": pace}
    assert at_known_pace(data, {"cnn": pace}).specs["cnn"].train.epochs == 7
    assert replace(begun, measured_for="others").paces_for(data) == {}
    assert replace(begun, paces={"cnn": replace(pace, network="resnet18")}).paces_for(data) == {}
    assert replace(fewer, is_over=True).paces_for(data) == {}
    assert fewer.paces_for(data)


def test_where_no_time_was_given_nothing_is_said_twice(tmp_path: Path) -> None:
    """The settings are those that were prepared."""
    data = prepared("digits", tmp_path)

    assert at_known_pace(data, {}) is data
