"""Settings of the four architectures: a union told apart by `arch`."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from imgrec.config.section import Fraction, NonNegative, Positive, Section, Widths

Arch = Literal["ann", "cnn", "rnn", "transformer"]
ARCHS: tuple[Arch, ...] = get_args(Arch)


class AnnConfig(Section):
    """A multi-layer perceptron on the flattened picture."""

    arch: Literal["ann"] = "ann"
    hidden: Widths = (512, 256)
    """Units of each hidden layer, first to last."""
    dropout: Fraction = 0.1
    """Share of hidden units dropped in training."""


class CnnConfig(Section):
    """A convolutional network: our compact one, or any classifier of torchvision."""

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


class RnnConfig(Section):
    """A recurrent network that reads a picture as a sequence."""

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


class TransformerConfig(Section):
    """A compact vision transformer."""

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


ModelConfig = Annotated[
    AnnConfig | CnnConfig | RnnConfig | TransformerConfig, Field(discriminator="arch")
]
MODEL_CONFIGS: dict[Arch, type[Section]] = {
    "ann": AnnConfig,
    "cnn": CnnConfig,
    "rnn": RnnConfig,
    "transformer": TransformerConfig,
}
