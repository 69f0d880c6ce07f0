"""Networks of torchvision, as models of format 4 were built that are registered already.

The network is torchvision's own; the differences are the last layer, which has K outputs, and that grey pictures
are repeated to the three channels that every torchvision network expects.
"""

import inspect
from typing import Any

from torch import Tensor, nn

from imgrec.config import ImageShape
from imgrec.errors import ConfigError


class TorchvisionNetwork(nn.Module):
    """A torchvision network with a new last layer."""

    def __init__(self, name: str, image_shape: ImageShape, num_classes: int) -> None:
        """Build it with random weights.

        Raises:
            ConfigError: torchvision has no such network any more.
        """
        super().__init__()
        self.network = _network(name, image_shape)
        _replace_last_layer(self.network, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return self.network(images)


def _network(name: str, image_shape: ImageShape) -> nn.Module:
    # torchvision takes three seconds to import, so only where it is asked for.
    from torchvision import models  # noqa: PLC0415

    if name not in models.list_models(module=models):
        msg = f"{name}: this torchvision has no such network"
        raise ConfigError(msg)
    builder = models.get_model_builder(name)
    options: dict[str, Any] = {}
    if name in {"googlenet", "inception_v3"}:
        options["aux_logits"] = False  # a second output, which only their own training uses
        options["init_weights"] = True
    if image_shape[0] == image_shape[1]:
        # Networks that are built for one size: ViT by option, MaxViT by argument.
        if name.startswith("vit_"):
            options["image_size"] = image_shape[0]
        elif "input_size" in inspect.signature(builder).parameters:
            options["input_size"] = image_shape[:2]
    return builder(weights=None, **options)


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
