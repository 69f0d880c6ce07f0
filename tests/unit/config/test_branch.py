"""An architecture's settings: its own defaults, and what another optimizer brings."""

from imgrec.config import load_config
from tests.unit.config.made import branch


def test_another_optimizer_brings_its_own_learning_rate() -> None:
    """The cnn's default rate is one for Muon; with SGD it would be far from good."""
    default, sgd = (
        load_config(None, settings).branches[1].train
        for settings in ([], ["train.optimizer='sgd'"])
    )

    assert default.optimizer == "muon"
    assert (sgd.optimizer, sgd.learning_rate) == ("sgd", 0.05)


def test_settings_of_another_optimizer_bring_its_own_defaults() -> None:
    """A trial is what the user would have got by writing its settings."""
    assert branch("ann").with_settings({"train.optimizer": "sgd"}).train.learning_rate == 0.05
