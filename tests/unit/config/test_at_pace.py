"""What a time for training has come to takes its place in the settings, as if somebody had written it."""

import pytest

from imgrec.config import Branch, load_config
from imgrec.config.branch import make_branch
from imgrec.errors import ConfigError


def branch_of(*settings: str) -> Branch:
    return load_config(None, ["archs=['cnn']", *settings]).branch("cnn")


def test_what_was_chosen_is_read_again_from_what_is_recorded() -> None:
    """So that whoever makes a model again needs no clock, and no other key tells the two apart."""
    settings = {"train.epochs": 7, "model.widths": (64, 256, 256)}
    timed = branch_of("train.budget='8m'", "cnn.model.widths=[32, 64, 64]").at_pace(settings)
    written = branch_of("cnn.train.epochs=7", "cnn.model.widths=[64, 256, 256]")

    assert timed.train == written.train
    assert timed.model == written.model
    assert make_branch("cnn", timed.written, {}).train.epochs == 7


def test_a_search_does_not_change_what_the_time_has_chosen() -> None:
    """Another width would take another time."""
    timed = branch_of("train.budget='8m'", "search.trials=3")
    settled = timed.at_pace({"train.epochs": 7, "model.widths": (64, 256, 256)})

    assert "model.widths" not in {one.key for one in settled.space}
    assert settled.with_settings({"train.learning_rate": 0.01}).train.epochs == 7


@pytest.mark.parametrize(
    "setting", ["cnn.model.widths=[8, 8]", "cnn.space.model.widths=[[8], [16]]"]
)
def test_a_size_that_is_somebodys_is_left_alone(setting: str) -> None:
    """His own, or one that his search tries."""
    assert branch_of("train.budget=60", setting).larger() == []


def test_a_time_for_what_has_one_epoch_is_refused() -> None:
    """A probe takes what it takes."""
    with pytest.raises(ConfigError, match="budget has no effect with finetune = 'probe'"):
        branch_of(
            "cnn.model.backbone='resnet18'", "cnn.train.finetune='probe'", "cnn.train.budget='8m'"
        )
