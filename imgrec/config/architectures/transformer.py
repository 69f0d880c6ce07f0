"""Settings of the vision transformer."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from imgrec.config.architectures.architecture import Architecture
from imgrec.config.section import Fraction, NonNegative, Positive


class TransformerConfig(Architecture):
    """A vision transformer."""

    compact_gains_by_bf16: ClassVar[bool] = True
    default_backbone: ClassVar[str] = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    gpu_backbone: ClassVar[str] = "vit_small_patch16_224.augreg_in21k_ft_in1k"
    other_backbones: ClassVar[tuple[str, ...]] = ("deit_tiny_patch16_224.fb_in1k",)
    arch: Literal["transformer"] = "transformer"
    tokens: Literal["convolutions", "patches"] = "convolutions"
    """What becomes a token: a place of the picture as a few convolutions see it, or a patch's pixels."""
    patch_size: NonNegative = 0
    """Side of a patch in pixels; 0 means about 8 patches a side, of at least 2 pixels."""
    width: Positive = 128
    """Features of a token; a multiple of heads and of 4."""
    depth: Annotated[int, Field(ge=1, le=48)] = 4
    """Number of blocks."""
    heads: Positive = 4
    """Attention heads in a block."""
    dropout: Fraction = 0.0
    """Share of features dropped in each block."""

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> Self:
        if self.tokens == "convolutions" and self.patch_size:
            msg = "patch_size has no effect with tokens = 'convolutions'; set tokens = 'patches'"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads or self.width % 4:
            msg = f"width = {self.width} must be a multiple of 4 and of heads = {self.heads}"
            raise ValueError(msg)
        return self

    def compact_train_defaults(self) -> dict[str, Any]:
        """What it is trained with where the user does not say."""
        if self.tokens == "convolutions":
            return super().compact_train_defaults()
        return {"optimizer": "muon", "learning_rate": 4e-3, "weight_decay": 0.02}

    @classmethod
    def space(cls) -> dict[str, dict[str, Any]]:
        """What a search changes of its own settings."""
        return {
            "model.width": {"choices": [64, 128, 192]},
            "model.depth": {"low": 2, "high": 6},
            "model.dropout": {"low": 0.0, "high": 0.3},
        }
