"""Settings of the recurrent networks."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from imgrec.config.architectures.architecture import Architecture
from imgrec.config.section import Fraction, NonNegative, Positive


class RnnConfig(Architecture):
    """A recurrent network that reads a picture as a sequence."""

    default_backbone: ClassVar[str] = "sequencer2d_s.in1k"
    gpu_backbone: ClassVar[str] = "sequencer2d_m.in1k"
    arch: Literal["rnn"] = "rnn"
    tokens: Literal["convolutions", "patches", "rows"] = "convolutions"
    """What is read: places of the picture as a few convolutions see them, or the pixels of patches, both
    swept over along the columns and then the rows (ReNet); or whole rows of pixels, in one sweep."""
    cell: Literal["gru", "lstm"] = "gru"
    """The recurrent unit."""
    hidden: Positive = 128
    """Units in each direction, and features of a place behind the convolutions."""
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    """Recurrent layers, one on the other."""
    patch_size: NonNegative = 0
    """Side of a patch in pixels; 0 means about 16 patches a side."""
    dropout: Fraction = 0.1
    """Share of features dropped between layers and before the last one."""

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> Self:
        if self.tokens != "patches" and self.patch_size:
            msg = f"patch_size has no effect with tokens = {self.tokens!r}; set tokens = 'patches'"
            raise ValueError(msg)
        return self

    @property
    def fixed_size(self) -> str:
        """Why the size of pictures cannot change during training; empty where it can."""
        return (
            "with tokens = 'rows' each column has weights of its own"
            if self.tokens == "rows"
            else ""
        )

    def compact_train_defaults(self) -> dict[str, Any]:
        """What it is trained with where the user does not say."""
        if self.tokens == "convolutions":
            return super().compact_train_defaults()
        return {"optimizer": "adamw", "learning_rate": 3e-3}

    @classmethod
    def space(cls) -> dict[str, dict[str, Any]]:
        """What a search changes of its own settings."""
        return {
            "model.layers": {"low": 1, "high": 2},
            "model.cell": {"choices": ["gru", "lstm"]},
            "model.hidden": {"choices": [64, 128, 192]},
            "model.dropout": {"low": 0.0, "high": 0.4},
        }
