"""Settings of the convolutional networks."""

from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from imgrec.config.architectures.architecture import Architecture
from imgrec.config.section import Fraction, Widths


class CnnConfig(Architecture):
    """A convolutional network: our compact one, or any classifier of torchvision."""

    gains_by_bf16: ClassVar[bool] = True
    arch: Literal["cnn"] = "cnn"
    backbone: str = "compact"
    """`compact`, or the name of a torchvision classifier such as `resnet18`."""
    pretrained: bool = False
    """Start a torchvision backbone from its published weights (downloaded on first use)."""
    widths: Widths = (32, 128, 256)
    """Channels of each block of the compact network; every block halves the picture."""
    dropout: Fraction = 0.0
    """Share of features dropped before the last layer of the compact network."""

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> Self:
        compact_only = {"widths", "dropout"} & self.model_fields_set
        if self.backbone != "compact" and compact_only:
            msg = f"{min(compact_only)} has no effect with backbone = {self.backbone!r}"
            raise ValueError(msg)
        if self.backbone == "compact" and self.pretrained:
            msg = "pretrained has no effect with backbone = 'compact': name a torchvision model"
            raise ValueError(msg)
        return self

    @property
    def grows(self) -> bool:
        """Not torchvision's networks by themselves: published weights know whole pictures."""
        return self.backbone == "compact"

    @classmethod
    def space(cls) -> dict[str, dict[str, Any]]:
        """What a search changes of its own settings."""
        return {
            "model.widths": {"choices": [[32, 64, 128], [32, 128, 256], [64, 128, 256]]},
            "model.dropout": {"low": 0.0, "high": 0.3},
        }
