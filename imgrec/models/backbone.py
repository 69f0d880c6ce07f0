"""Any classifier of torchvision, by name, with or without its published weights.

The network is torchvision's own; the differences are the last layer, which gets K outputs, and that
grey pictures are repeated to the three channels that every torchvision network expects.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError  # the error alone: nothing is unpickled
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from imgrec.config import CnnConfig, ImageShape
from imgrec.errors import ConfigError

WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch's environment variable: every torch.load in the process accepts weights only."""


class Backbone(nn.Module):
    """A torchvision network with a new last layer."""

    def __init__(self, config: CnnConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.network = _network(config, image_shape)
        _replace_last_layer(self.network, num_classes)
        self._refuse_wrong_size(config.backbone, image_shape)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return self.network(images)

    @torch.no_grad()
    def _refuse_wrong_size(self, name: str, image_shape: ImageShape) -> None:
        height, width, channels = image_shape
        try:
            self.eval()(torch.zeros(2, channels, height, width))
        except (RuntimeError, AssertionError, ValueError) as error:
            msg = (
                f"cnn.model.backbone = {name!r}: does not take pictures of {height} x {width} "
                f"pixels; set data.image_size to what it was made for, such as 224"
            )
            raise ConfigError(msg) from error
        self.train()


def _network(config: CnnConfig, image_shape: ImageShape) -> nn.Module:
    # torchvision takes three seconds to import, so only where it is asked for.
    from torchvision import models  # noqa: PLC0415

    names = models.list_models(module=models)
    if config.backbone not in names:
        msg = (
            f"cnn.model.backbone = {config.backbone!r}: no such classifier; "
            f"'compact' or one of torchvision's: {', '.join(names)}"
        )
        raise ConfigError(msg)
    builder = models.get_model_builder(config.backbone)
    options: dict[str, Any] = {}
    if config.backbone in {"googlenet", "inception_v3"}:
        if config.pretrained:
            # Their weights come with a normalization of the input of their own, inside the network.
            msg = (
                f"cnn.model.pretrained = true: not with {config.backbone}; choose another backbone"
            )
            raise ConfigError(msg)
        options["aux_logits"] = False  # a second output, which only their own training uses
        options["init_weights"] = True
    if not config.pretrained and image_shape[0] == image_shape[1]:
        # Networks that are built for one size: ViT by option, MaxViT by argument.
        if config.backbone.startswith("vit_"):
            options["image_size"] = image_shape[0]
        elif "input_size" in inspect.signature(builder).parameters:
            options["input_size"] = image_shape[:2]
    weights = models.get_model_weights(config.backbone).DEFAULT if config.pretrained else None
    if weights is not None and config.backbone.startswith("vit_"):
        options["image_size"] = weights.meta["min_size"][0]
    try:
        with _only_weights(config.backbone):
            return builder(weights=weights, **options)
    except (ValueError, AssertionError) as error:
        msg = f"cnn.model.backbone = {config.backbone!r}: {error}; set data.image_size"
        raise ConfigError(msg) from error


@contextmanager
def _only_weights(backbone: str) -> Iterator[None]:
    """Read nothing but weights from torch's cache; torchvision by itself would unpickle its files."""
    kept = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        yield
    except URLError as error:
        msg = (
            f"cnn.model.pretrained = true: the weights of {backbone} cannot be downloaded "
            f"({error.reason}); fetch them once where there is a network, or set it to false"
        )
        raise ConfigError(msg) from error
    except UnpicklingError as error:
        msg = (
            f"cnn.model.pretrained = true: the file of {backbone} in torch's cache holds more than weights, "
            f"and is not read; remove it"
        )
        raise ConfigError(msg) from error
    finally:
        if kept is None:
            del os.environ[WEIGHTS_ONLY]
        else:
            os.environ[WEIGHTS_ONLY] = kept


def _replace_last_layer(network: nn.Module, num_classes: int) -> None:
    """Give the layer that makes the logits K outputs: the last Linear or, in SqueezeNet, Conv2d."""
    name, layer = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ][-1]
    new: nn.Module
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)
    else:
        new = nn.Conv2d(layer.in_channels, num_classes, kernel_size=1)
    network.set_submodule(name, new)
