"""Settings of the convolutional networks."""

from typing import Any, ClassVar, Literal

from imgrec.config.architectures.architecture import BY_CONVOLUTION, FROM_PRETRAINED, Architecture
from imgrec.config.section import Fraction, Widths


class CnnConfig(Architecture):
    """A convolutional network."""

    compact_gains_by_bf16: ClassVar[bool] = True
    default_backbone: ClassVar[str] = "tf_efficientnet_lite0.in1k"
    gpu_backbone: ClassVar[str] = "convnext_tiny.in12k_ft_in1k"
    other_backbones: ClassVar[tuple[str, ...]] = (
        "tf_efficientnet_lite1.in1k",
        "mobilenetv3_large_100.ra_in1k",
        "resnet18.a1_in1k",
    )
    arch: Literal["cnn"] = "cnn"
    widths: Widths = (32, 128, 256)
    """Channels of each block of the compact network; every block halves the picture."""
    dropout: Fraction = 0.0
    """Share of features dropped before the last layer of the compact network."""

    @property
    def larger(self) -> tuple[dict[str, Any], ...]:
        """Settings of larger compact networks, the smallest first, for whoever gives the time (`train.budget`)."""
        return ({"widths": (64, 256, 256)},)

    def pretrained_train_defaults(self) -> dict[str, Any]:
        """What a network of timm's is trained with that begins with pretrained weights.

        Its first layers know edges and colours, of every kind of photo; at their resolution they cost more than
        half of a step. Measured in docs/results.md.
        """
        return FROM_PRETRAINED | {"freeze": 0.35, "start_size": 0.7}

    def scratch_train_defaults(self) -> dict[str, Any]:
        """What a network of timm's is trained with that begins with random weights."""
        return BY_CONVOLUTION

    @classmethod
    def space(cls) -> dict[str, dict[str, Any]]:
        """What a search changes of its own settings."""
        return {
            "model.widths": {"choices": [[32, 64, 128], [32, 128, 256], [64, 128, 256]]},
            "model.dropout": {"low": 0.0, "high": 0.3},
        }
