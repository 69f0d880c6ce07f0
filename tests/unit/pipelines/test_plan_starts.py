"""A plan says how long a fit would take with the other kind of weights, or in the time that was given for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imgrec.config import load_config
from pipelines.costs.estimate import SEARCHED_SHARE
from pipelines.observer import Observer
from pipelines.plan import _other_start, plan
from pipelines.prepare import prepare
from tests.conftest import no_progress


def test_both_times_are_told_where_photos_decided(
    make_large_photos: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pretrained network that of the compact one, and the other way round; of what was asked for nothing."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    settings = [f"data.source='{make_large_photos()}'", f"storage='{tmp_path}'"]
    config = load_config(None, [*settings, "archs=['ann', 'cnn']"])
    prepared = prepare(config, no_progress, planning=True)
    asked = load_config(None, [*settings, "archs=['cnn']", "cnn.model.backbone='compact'"])

    assert _other_start(config.branch("cnn"), prepared).startswith("compact, from random weights: ")
    assert _other_start(config.branch("ann"), prepared).startswith(
        "with the weights resmlp_12_224.fb_in1k: "
    )
    assert not _other_start(asked.branch("cnn"), prepare(asked, no_progress, planning=True))


class Silent(Observer):
    """Is told, and says nothing."""


def test_a_time_for_training_is_what_is_planned_also_for_each_trial(tmp_path: Path) -> None:
    """How many epochs that is only the workers can tell; whether there will be a search is known."""
    settings = [f"storage='{tmp_path}'", "archs=['cnn']", "train.budget='10m'", "search.trials=4"]
    config = load_config(None, settings)
    prepare(config, no_progress, planning=True)
    stages = {stage.name: stage for stage in plan(config, Silent(), fresh=False)}

    assert stages["fit"].seconds == pytest.approx(600)
    assert stages["search"].seconds == pytest.approx(4 * 600 * SEARCHED_SHARE)
    assert stages["fit"].disk
    assert "measured" in stages["search"].note
