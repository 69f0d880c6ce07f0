"""The architectures: their settings as a union told apart by `arch`, a file for each."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from imgrec.config.architectures.ann import AnnConfig
from imgrec.config.architectures.architecture import Architecture
from imgrec.config.architectures.cnn import CnnConfig
from imgrec.config.architectures.rnn import RnnConfig
from imgrec.config.architectures.transformer import TransformerConfig

Arch = Literal["ann", "cnn", "rnn", "transformer"]
AnyArchitecture = AnnConfig | CnnConfig | RnnConfig | TransformerConfig

__all__ = [
    "ARCHS",
    "MODEL_CONFIGS",
    "AnnConfig",
    "Arch",
    "Architecture",
    "CnnConfig",
    "ModelConfig",
    "RnnConfig",
    "TransformerConfig",
]

ARCHS: tuple[Arch, ...] = get_args(Arch)
ModelConfig = Annotated[AnyArchitecture, Field(discriminator="arch")]
MODEL_CONFIGS: dict[Arch, type[Architecture]] = {
    one.model_fields["arch"].default: one for one in get_args(AnyArchitecture)
}
