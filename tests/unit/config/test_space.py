"""What a search may change: built in, written by the user, and refused where it has no effect."""

import pytest

from imgrec.config import ARCHS, load_config
from imgrec.errors import ConfigError
from tests.unit.config.made import branch

SHARED = ("train.learning_rate", "train.weight_decay", "train.label_smoothing", "preprocess.shift")
"""Searched in every architecture; each has settings of its own too."""


@pytest.mark.parametrize("arch", ARCHS)
def test_every_builtin_dimension_is_allowed_and_holds_its_default(arch: str) -> None:
    """Both ends of each range pass the checks of the settings."""
    found = branch(arch)

    assert len(found.space) > len(SHARED)
    for dimension in found.space:
        for value in dimension.ends:
            opened = {key: allowed[0] for key, allowed in dimension.when.items()}
            assert found.with_settings({**opened, dimension.key: value})
        default = found.value(dimension.key)
        assert default is None or dimension.when or dimension.holds(default)


def test_what_the_user_wrote_is_not_searched() -> None:
    """A value that was set is meant; a space beside it says otherwise."""
    fixed = branch("ann", "train.learning_rate=0.01")
    both = branch(
        "ann", "train.learning_rate=0.01", "ann.space.train.learning_rate=[0.001, 0.01, 0.1]"
    )
    plain = branch("ann", "preprocess.augment=none")

    assert "train.learning_rate" not in {d.key for d in fixed.space}
    assert both.space[-1].choices == (0.001, 0.01, 0.1)
    assert not {d.key for d in plain.space} & {"preprocess.shift", "preprocess.erase"}


def test_a_dimension_can_be_taken_out_replaced_and_added() -> None:
    """`false`, a list of choices, a range."""
    found = branch(
        "cnn",
        "cnn.space.train.learning_rate=false",
        "cnn.space.model.widths=[[8], [8, 16]]",
        "cnn.space.train.momentum={low=0.8, high=0.99}",
    )
    dimensions = {d.key: d for d in found.space}

    assert "train.learning_rate" not in dimensions
    assert dimensions["model.widths"].choices == ((8,), (8, 16))
    assert dimensions["train.momentum"].high == 0.99


def test_a_network_of_timm_is_searched_without_what_only_the_compact_one_has() -> None:
    """Its widths and dropout are its own."""
    keys = {d.key for d in branch("cnn", "cnn.model.backbone=resnet18").space}

    assert "train.learning_rate" in keys
    assert not keys & {"model.widths", "model.dropout"}


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("train.momentum={low=0.5, high=0.9}", "ann.space.train.momentum: ann.train: momentum has"),
        (
            "train.momentum={low=0.5, high=0.9, when={'train.optimizer'='sgd'}}",
            "ann.space.train.momentum has no effect: train.optimizer = ['sgd'] never holds",
        ),
        ("train.learning_rat=[1, 2]", "did you mean ann.train.learning_rate?"),
        ("train.epochs=[1, 2]", "ann.space.train.epochs: trials are compared at the same epochs"),
        ("train.learning_rate={low=0.1, high=20}", "ann.train.learning_rate = 20: must be less"),
        ("train.learning_rate={low=0.1}", "give low and high, or choices"),
        ("train.learning_rate={low=0.1, high=0.01}", "low = 0.1 must be below high = 0.01"),
        ("train.weight_decay={low=0, high=0.1, log=true}", "log needs a low above 0"),
        ("train.learning_rate={lo=0.1, high=1}", "ann.space.train.learning_rate.lo: no such"),
        ("train.learning_rate=3", "give {low = ..., high = ...}, a list, or false"),
        ("train.optimizer=['adam']", "must be 'adamw', 'sgd' or 'muon'"),
        ("learning_rate=[1]", "name a setting, such as ann.space.train.learning_rate"),
        ("model.dropout={low=0, high=0.5, when={'model.depth'=3}}", "ann.model.depth: no such"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_by_name(space: str, said: str) -> None:
    """Before anything is started, not by the trial that comes upon it."""
    with pytest.raises(ConfigError) as error:
        load_config(None, [f"ann.space.{space}"])

    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_momentum_may_be_searched_where_sgd_is_one_of_the_choices() -> None:
    """One choice opens another."""
    choices = "ann.space.train.optimizer=['adamw', 'sgd']"
    momentum = "ann.space.train.momentum={low=0.5, high=0.9, when={'train.optimizer'='sgd'}}"
    found = branch("ann", choices, momentum)

    assert [d.key for d in found.space][-2:] == ["train.optimizer", "train.momentum"]
    with pytest.raises(ConfigError, match="momentum has no effect"):
        branch("ann", choices, "ann.space.train.momentum={low=0.5, high=0.9}")


def test_a_space_whose_every_combination_is_legal_is_taken() -> None:
    """A default that no trial has must not decide: of rows the optimizer would be AdamW, which has no momentum."""
    found = branch(
        "rnn",
        "rnn.space.model.tokens=['convolutions', 'rows']",
        "rnn.space.train.optimizer=['sgd', 'muon']",
        "rnn.space.train.momentum={low=0.5, high=0.9}",
    )
    assert "train.momentum" in {d.key for d in found.space}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        # A range may never come upon the one value.
        (
            (
                "train.weight_decay={low=0.01, high=0.1}",
                "train.warmup={low=0.1, high=0.2, when={'train.weight_decay'=0.05}}",
            ),
            "never holds",
        ),
        (
            (
                "model.dropout={choices=[0.0, 0.2], when={'train.decay'='cosine'}}",
                "train.decay={choices=['cosine', 'linear'], when={'model.dropout'=0.2}}",
            ),
            "never holds",
        ),
        (
            ("train.optimizer=['muon', 'adamw']", "train.momentum=[0.6, 0.9]"),
            "cnn.space.train",
        ),
    ],
)
def test_a_space_of_which_a_part_would_never_be_searched_is_refused(
    settings: tuple[str, ...], said: str
) -> None:
    """By the name of the setting, in one line."""
    with pytest.raises(ConfigError, match=said):
        load_config(None, [f"cnn.space.{one}" for one in settings])
