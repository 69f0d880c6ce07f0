"""What a section makes of what is written, and of what is left to the data."""

import pytest

from imgrec.config import TrainConfig, load_config
from imgrec.errors import ConfigError


def test_epochs_and_batch_size_follow_the_amount_of_data() -> None:
    """0 means chosen: many passes over few pictures, few over many."""
    train = load_config().branches[0].train
    few, many = train.resolved([500, 500]), train.resolved([22_000] * 2)

    assert (few.epochs, few.batch_size) == (40, 64)
    assert (many.epochs, many.batch_size) == (11, 256)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("45", 45), ("1h1s", 3601)]
)
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    """As people write it."""
    assert load_config(None, [f"search.budget={text}"]).search.budget == seconds


@pytest.mark.parametrize("text", ["ten", "10 minutes", "-5m", "'m'", "true", "''"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(ConfigError, match=r"search\.budget"):
        load_config(None, [f"search.budget={text}"])


@pytest.mark.parametrize(
    ("counts", "chosen"), [((100, 51), "none"), ((100, 50), "logit_adjustment")]
)
def test_auto_follows_its_rule(counts: tuple[int, int], chosen: str) -> None:
    """It is written in the docstring of choose_imbalance."""
    assert TrainConfig().resolved(counts).imbalance == chosen
    assert TrainConfig(imbalance="focal").resolved(counts).imbalance == "focal"
