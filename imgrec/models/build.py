"""A model configuration to a model."""

from pathlib import Path
from typing import TypeVar, assert_never

import torch
from torch import nn

from imgrec.config import (
    AnnConfig,
    CnnConfig,
    ImageShape,
    ModelConfig,
    RnnConfig,
    TransformerConfig,
)
from imgrec.errors import ConfigError
from imgrec.models.ann import Ann
from imgrec.models.cnn import Cnn
from imgrec.models.network import Network
from imgrec.models.rnn import ReNet, RowRnn
from imgrec.models.timm_network import TimmNetwork
from imgrec.models.transformer import VisionTransformer

M = TypeVar("M", bound=nn.Module)


def build_model(
    config: ModelConfig, image_shape: ImageShape, num_classes: int, weights: Path | None = None
) -> Network:
    """A model with fresh weights, or those of a file: images (B, C, H, W) float to logits (B, K).

    Every compact model takes any image size and channel count. Initial weights come from torch's global
    generator: seed it first. The last layer is always new.

    Args:
        config: Of any architecture, `auto` decided.
        image_shape: Height, width, channels.
        num_classes: K.
        weights: A safetensors file: with timm's names, for a network of timm's; or with our own, where the
            settings name a registered model.

    Raises:
        ConfigError: timm has no such network, it refuses this image size, or the weights are of another.
    """
    published = None if config.begins_with_registered else weights
    network = _network_of(config, image_shape, num_classes, published)
    network.keeps_statistics = config.is_pretrained
    if config.begins_with_registered and weights:
        try:
            network.begin_with(weights)
        except ConfigError as error:
            height, width, channels = image_shape
            msg = (
                f"{config.arch}.model.pretrained = {config.pretrained!r}, for pictures of {height} x {width} x "
                f"{channels}: {error}"
            )
            raise ConfigError(msg) from error
    return network.train()


def _network_of(
    config: ModelConfig, image_shape: ImageShape, num_classes: int, weights: Path | None
) -> Network:
    if not config.is_compact:
        return TimmNetwork(config, image_shape, num_classes, weights)
    assert weights is None, "there are none of compact networks"
    match config:
        case AnnConfig():
            return Ann(config, image_shape, num_classes)
        case CnnConfig():
            return Cnn(config, image_shape, num_classes)
        case RnnConfig(tokens="rows"):
            return RowRnn(config, image_shape, num_classes)
        case RnnConfig():
            return ReNet(config, image_shape, num_classes)
        case TransformerConfig():
            return VisionTransformer(config, image_shape, num_classes)
        case _:
            assert_never(config)


def count_parameters(model: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def keep_fp32() -> None:
    """Let GPUs compute in fp32 what is to be fp32: else torch takes TF32, which has 10 bits, for convolutions and recurrent layers.

    What a GPU says of a picture then differs from what a CPU says by rounding alone.
    """
    torch.backends.cudnn.allow_tf32 = False


def lay_out(module: M) -> M:
    """The module with its convolutions in channels_last, the layout that the store's pictures have.

    In torch 2.13 it made a fp32 step of the cnn on a CPU up to three times faster.
    """
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
