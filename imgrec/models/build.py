"""A model configuration to a model."""

from pathlib import Path
from typing import assert_never

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
from imgrec.models.ann import Ann
from imgrec.models.cnn import Cnn
from imgrec.models.rnn import ReNet, RowRnn
from imgrec.models.timm_network import TimmNetwork
from imgrec.models.transformer import VisionTransformer


def build_model(
    config: ModelConfig, image_shape: ImageShape, num_classes: int, weights: Path | None = None
) -> nn.Module:
    """A model with fresh weights, or those of a file: images (B, C, H, W) float to logits (B, K).

    Every compact model takes any image size and channel count, and ends in a linear layer named `head`
    (a network of timm's keeps its own names). Initial weights come from torch's global
    generator: seed it first. The last layer is always new.

    Args:
        config: Of any architecture, `auto` decided.
        image_shape: Height, width, channels.
        num_classes: K.
        weights: A safetensors file with timm's names, for a network of timm's.

    Raises:
        ConfigError: timm has no such network, it refuses this image size, or the weights are of another.
    """
    if not config.is_compact:
        return TimmNetwork(config, image_shape, num_classes, weights)
    assert weights is None, "compact networks begin with random weights"
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


def lay_out(module: nn.Module) -> nn.Module:
    """The module with its convolutions in channels_last, the layout that the store's pictures have.

    In torch 2.13 it made a fp32 step of the cnn on a CPU up to three times faster.
    """
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
