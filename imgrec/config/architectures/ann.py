"""Settings of the multi-layer perceptron."""

from typing import Any, ClassVar, Literal

from imgrec.config.architectures.architecture import Architecture
from imgrec.config.section import Fraction, Widths


class AnnConfig(Architecture):
    """A multi-layer perceptron on the flattened picture."""

    default_backbone: ClassVar[str] = "resmlp_12_224.fb_in1k"
    gpu_backbone: ClassVar[str] = "resmlp_24_224.fb_in1k"
    other_backbones: ClassVar[tuple[str, ...]] = ("gmixer_24_224.ra3_in1k",)
    arch: Literal["ann"] = "ann"
    hidden: Widths = (512, 256)
    """Units of each hidden layer, first to last."""
    dropout: Fraction = 0.1
    """Share of hidden units dropped in training."""

    @property
    def fixed_size(self) -> str:
        """Why the size of pictures cannot change during training."""
        return "each pixel, or in a mixer each patch, has weights of its own"

    def compact_train_defaults(self) -> dict[str, Any]:
        """What it is trained with where the user does not say."""
        return {"optimizer": "adamw", "learning_rate": 2e-3}

    @classmethod
    def space(cls) -> dict[str, dict[str, Any]]:
        """What a search changes of its own settings."""
        return {
            "model.hidden": {"choices": [[256], [256, 128], [512, 256], [1024, 512]]},
            "model.dropout": {"low": 0.0, "high": 0.5},
        }
