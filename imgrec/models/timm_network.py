"""Any network of timm, by name, with a last layer of its own for K classes.

The network is timm's own. Differences: grey pictures are repeated to three channels; the batch normalizations
of one that begins with pretrained weights keep their statistics, for those of a few small batches are worse; and
convolutions are ours: batch normalizations may be part of them, and depthwise ones learn faster on a CPU (`folding`).

Source: Wightman 2019, "PyTorch Image Models" (https://github.com/huggingface/pytorch-image-models).
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from imgrec.config import ImageShape, ModelConfig
from imgrec.config.architectures.architecture import network_of
from imgrec.errors import ConfigError
from imgrec.models.families import refuse_foreign
from imgrec.models.folding import FoldingConv, SameConv, fold_norms, watched
from imgrec.models.network import BatchNorm, Network
from imgrec.models.recurrent import AS_ASKED


class TimmNetwork(Network):
    """A network of timm's."""

    def __init__(
        self,
        config: ModelConfig,
        image_shape: ImageShape,
        num_classes: int,
        weights: Path | None = None,
    ) -> None:
        """Build it, with random weights or those of a file; the last layer is random in any case.

        Raises:
            ConfigError: timm has no such network, it is of another architecture or takes no such pictures; or the
                weights are those of another.
        """
        super().__init__()
        self.network = _network(config, image_shape, num_classes, weights)
        name = self.network.pretrained_cfg["classifier"]
        head = self.network.get_submodule(name) if isinstance(name, str) else None
        if not isinstance(head, nn.Linear):
            msg = (
                f"{config.arch}.model.backbone = {config.backbone!r}: it ends in something else than one "
                f"linear layer; choose another"
            )
            raise ConfigError(msg)
        self.last_layer_name = f"network.{name}"
        in_place_of = AS_ASKED | _our_convolutions()
        for module in list(self.network.modules()):
            module.__class__ = in_place_of.get(type(module), type(module))
        self._pass_zeros(config, image_shape)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        return self.network(_in_three_channels(images))

    def depths(self) -> dict[str, float]:
        """How deep each parameter lies, by name: 0 in the first layer, 1 in the last."""
        from timm.models import group_parameters  # noqa: PLC0415 - as in _network

        if not hasattr(self.network, "group_matcher"):  # some have not said
            return super().depths()
        matcher = self.network.group_matcher(coarse=False)
        layers = group_parameters(self.network, matcher, reverse=True)
        # timm counts the last layer into the last group of some networks.
        deepest = max(layers.values())
        depths = {f"network.{name}": layer / (deepest + 1) for name, layer in layers.items()}
        return depths | {
            f"{self.last_layer_name}.{name}": 1.0 for name, _ in self.last_layer.named_parameters()
        }

    @torch.no_grad()
    def _pass_zeros(self, config: ModelConfig, image_shape: ImageShape) -> None:
        """Refuse pictures that it does not take, and see which normalizations may be part of convolutions."""
        height, width, channels = image_shape
        if self.last_layer.weight.is_meta:
            return
        try:
            with watched(self.network, _norms()) as watch:
                seen = self.eval().features(torch.zeros(2, channels, height, width))
            assert seen.ndim == 2, "its last layer is applied to maps"
        except (RuntimeError, AssertionError, ValueError) as error:
            msg = (
                f"{config.arch}.model.backbone = {config.backbone!r}: does not take pictures of {height} x "
                f"{width} pixels; set data.image_size to what it was made for, such as 224"
            )
            raise ConfigError(msg) from error
        fold_norms(watch)
        self.train()


def _classes_in(weights: Path, last_layer: str) -> int:
    """How many classes the last layer in a file has; 0 where there is none."""
    with safe_open(weights, framework="pt") as tensors:
        name = f"{last_layer}.weight"
        return int(tensors.get_slice(name).get_shape()[0]) if name in tensors.keys() else 0  # noqa: SIM118 - no mapping


def _our_convolutions() -> dict[type, type]:
    from timm.layers.conv2d_same import Conv2dSame  # noqa: PLC0415 - as in _network

    return {nn.Conv2d: FoldingConv, Conv2dSame: SameConv}


def _norms() -> tuple[type[BatchNorm], ...]:
    """Those that may be part of a convolution."""
    from timm.layers.norm_act import BatchNormAct2d  # noqa: PLC0415 - as in _network

    return nn.BatchNorm2d, BatchNormAct2d


def _in_three_channels(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _network(
    config: ModelConfig, image_shape: ImageShape, num_classes: int, weights: Path | None
) -> Any:
    # timm imports torchvision, which takes three seconds together: only where it is asked for.
    import timm  # noqa: PLC0415

    refuse_foreign(config.arch, config.backbone)
    name = network_of(config.backbone)
    options: dict[str, Any] = {}
    made_for = timm.get_pretrained_cfg(name)
    if made_for and made_for.fixed_input_size and made_for.input_size[1:] != image_shape[:2]:
        options["img_size"] = image_shape[:2]
    try:
        if weights is None:
            return timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
        # With as many classes as the weights have timm refuses those of another network, which it would pass
        # over else. It brings what is tied to a size, such as positions, to this one.
        classes = _classes_in(weights, str(made_for.classifier)) if made_for else 0
        overlay = {"file": str(weights), "num_classes": classes}
        network: Any = timm.create_model(
            name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **options
        )
    except (
        ValueError,
        AssertionError,
        TypeError,
        RuntimeError,
        KeyError,
        SafetensorError,
    ) as error:
        if weights:
            height, width, _ = image_shape
            msg = (
                f"{config.arch}.model.pretrained: the weights in {weights} are not those of {name} for pictures "
                f"of {height} x {width}"
            )
            raise ConfigError(msg) from error
        height, width, _ = image_shape
        msg = (
            f"{config.arch}.model.backbone = {config.backbone!r}: cannot be built for pictures of {height} x "
            f"{width} ({str(error).splitlines()[0] if str(error) else type(error).__name__}); set data.image_size"
        )
        raise ConfigError(msg) from error
    network.reset_classifier(num_classes)
    return network
