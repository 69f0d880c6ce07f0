"""What every architecture says of itself, beside its settings."""

from typing import Any, ClassVar

from imgrec.config.section import Section

# What they were compared with is in docs/log.md.
BY_CONVOLUTION: dict[str, Any] = {
    "optimizer": "muon",
    "learning_rate": 0.0075,
    "weight_decay": 0.02,
    "momentum": 0.6,
    "max_grad_norm": 0.0,  # Muon's steps have their length whatever the gradient's is
    "warmup": 0.15,
    "decay": "linear",
    "label_smoothing": 0.2,
}


class Architecture(Section):
    """The settings of an architecture, and what follows from them for training.

    It is read without torch; the network itself is in imgrec/models.
    """

    gains_by_bf16: ClassVar[bool] = False
    """Whether a CPU with units for bf16 trains it faster with them (docs/log.md)."""

    @property
    def fixed_size(self) -> str:
        """Why the size of pictures cannot change during training; empty where it can."""
        return ""

    @property
    def grows(self) -> bool:
        """Whether pictures grow during training where the user does not say."""
        return not self.fixed_size

    def train_defaults(self) -> dict[str, Any]:
        """What it is trained with where the user does not say: values of `TrainConfig`."""
        return BY_CONVOLUTION

    @classmethod
    def space(cls) -> dict[str, dict[str, Any]]:
        """What a search changes of its own settings where the user does not say: `Dimension`s by key."""
        return {}
