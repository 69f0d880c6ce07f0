"""Networks of timm in all four architectures."""

import pytest
import torch
from torch import nn

from imgrec.config import (
    AnnConfig,
    CnnConfig,
    ModelConfig,
    RnnConfig,
    TransformerConfig,
)
from imgrec.errors import ConfigError
from imgrec.models import build_model
from imgrec.models.timm_network import TimmNetwork

NETWORKS: list[ModelConfig] = [
    AnnConfig(backbone="gmlp_ti16_224", pretrained=False),
    CnnConfig(backbone="test_efficientnet", pretrained=False),
    CnnConfig(backbone="resnet18", pretrained=False),
    RnnConfig(backbone="sequencer2d_s", pretrained=False),
    CnnConfig(backbone="shvit_s1", pretrained=False),  # normalized before its last layer
    TransformerConfig(backbone="test_vit", pretrained=False),
    TransformerConfig(backbone="vit_tiny_patch16_224", pretrained=False),
]
each = pytest.mark.parametrize("config", NETWORKS, ids=lambda config: config.backbone)


@each
@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_gets_our_classes_and_our_size(config: ModelConfig, channels: int) -> None:
    """Whatever it was made for."""
    model = build_model(config, (64, 64, channels), num_classes=7).eval()

    assert model(torch.rand(2, channels, 64, 64)).shape == (2, 7)


@each
def test_the_last_layer_on_features_is_the_network(config: ModelConfig) -> None:
    """What is solved on features is what is served."""
    model = build_model(config, (64, 64, 3), num_classes=5).eval()
    assert isinstance(model, TimmNetwork)
    images = torch.rand(2, 3, 64, 64)

    torch.testing.assert_close(model.last_layer(model.features(images)), model(images))


@each
def test_every_parameter_has_a_depth_and_the_last_layer_the_greatest(config: ModelConfig) -> None:
    """A parameter without one would be trained at no rate, or at a wrong one."""
    model = build_model(config, (64, 64, 3), num_classes=5)
    assert isinstance(model, TimmNetwork)
    depths = model.depths()
    last = {name for name, depth in depths.items() if depth == 1.0}

    assert set(depths) == {name for name, _ in model.named_parameters()}
    assert min(depths.values()) == 0.0
    assert last == {f"{model.last_layer_name}.{name}" for name in ("weight", "bias")}
    assert len(set(depths.values())) > 3


@pytest.mark.parametrize("pretrained", [True, False])
def test_statistics_that_came_with_weights_stay(pretrained: bool) -> None:
    """A few batches of 32 know them worse than ImageNet does; of a network from noise they are all there is."""
    config = CnnConfig(backbone="test_efficientnet", pretrained=pretrained)
    model = build_model(config, (32, 32, 3), num_classes=2).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(8, 3, 32, 32))
    moved = [name for name, value in model.named_buffers() if not torch.equal(value, before[name])]

    assert bool(moved) is not pretrained


@pytest.mark.parametrize("backbone", ["test_efficientnet", "tf_efficientnet_lite0"])
def test_depthwise_layers_with_a_stride_learn_in_fp32(backbone: str) -> None:
    """On a CPU their gradients in bf16 take several times as long; however the layer is padded."""
    config = CnnConfig(backbone=backbone, pretrained=False)
    model = build_model(config, (32, 32, 3), num_classes=2)
    layer = next(
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels > 1
        and module.stride == (2, 2)
    )
    images = torch.randn(4, layer.in_channels, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learned = layer(images)
        with torch.no_grad():
            served = layer(images)

    assert learned.dtype == torch.float32
    assert served.dtype == torch.bfloat16
    torch.testing.assert_close(learned, layer(images))


def test_a_size_that_a_network_does_not_take_is_refused() -> None:
    """In one line, before workers are started over and over."""
    config = CnnConfig(backbone="inception_v3", pretrained=False)

    with pytest.raises(ConfigError, match="does not take pictures of 32 x 32 pixels"):
        build_model(config, (32, 32, 3), num_classes=2)


def test_a_network_that_does_not_say_its_layers_has_depths_all_the_same() -> None:
    """Its parameters come in the order of its layers."""
    model = build_model(CnnConfig(backbone="poolformer_s12", pretrained=False), (64, 64, 3), 2)
    assert isinstance(model, TimmNetwork)
    depths = list(model.depths().values())

    assert depths[0] == 0.0
    assert depths == sorted(depths)


def test_a_network_with_two_last_layers_is_refused() -> None:
    """A distilled one has a head for its teacher."""
    config = TransformerConfig(backbone="deit_tiny_distilled_patch16_224", pretrained=False)

    with pytest.raises(ConfigError, match="something else than one linear layer"):
        build_model(config, (224, 224, 3), num_classes=2)
