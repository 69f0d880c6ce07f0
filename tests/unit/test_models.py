"""All architectures keep one contract: any picture size in, K logits out, and they can learn."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torchvision import models

from imgrec.config import AnnConfig, CnnConfig, ModelConfig, RnnConfig, TransformerConfig
from imgrec.errors import ConfigError
from imgrec.models import build_model, count_parameters
from imgrec.models.convolution import COMPONENTS, PIXELS_AT_ONCE, Stem, Whiten

CONFIGS: list[ModelConfig] = [
    AnnConfig(hidden=(32, 16)),
    CnnConfig(widths=(8, 16, 16)),
    RnnConfig(hidden=16),
    RnnConfig(hidden=16, cell="lstm", layers=2),
    RnnConfig(hidden=8, tokens="patches"),
    RnnConfig(hidden=16, layers=2, tokens="rows"),
    RnnConfig(hidden=16, cell="lstm", tokens="rows"),
    TransformerConfig(width=16, depth=2, heads=2),
    TransformerConfig(width=16, depth=2, heads=2, tokens="patches"),
]
SHAPES = [(1, 1, 1), (2, 3, 3), (8, 8, 1), (28, 20, 1), (32, 32, 3), (97, 130, 3)]


def named(config: ModelConfig) -> str:
    return "-".join([config.arch, *(str(v) for k, v in config if k in {"cell", "tokens"})])


@pytest.mark.parametrize("config", CONFIGS, ids=named)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_size_and_channel_count_gives_finite_logits(
    config: ModelConfig, shape: tuple[int, int, int]
) -> None:
    """Users bring pictures of every kind."""
    height, width, channels = shape
    model = build_model(config, shape, num_classes=5).eval()

    logits = model(torch.rand(3, channels, height, width))

    assert logits.shape == (3, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_one_image_scores_the_same_alone_and_in_a_batch(config: ModelConfig) -> None:
    """Serving sends one image, training sends many: in eval mode neighbours must not matter."""
    model = build_model(config, (28, 28, 1), num_classes=10).eval()
    images = torch.rand(8, 1, 28, 28)

    torch.testing.assert_close(model(images)[:1], model(images[:1]))


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_every_parameter_gets_a_gradient(config: ModelConfig) -> None:
    """What gets none is dead weight, and DDP would stop over it."""
    torch.manual_seed(0)
    model = build_model(config, (16, 16, 3), num_classes=4)
    model(torch.rand(8, 3, 16, 16)).square().sum().backward()

    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    dead = [name for name, p in trained if p.grad is None or not p.grad.any()]
    assert dead == []


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_the_same_seed_builds_the_same_weights(config: ModelConfig) -> None:
    """Runs can only be repeated from the same start."""

    def weights() -> torch.Tensor:
        torch.manual_seed(7)
        model = build_model(config, (8, 8, 1), num_classes=3)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    assert torch.equal(weights(), weights())


def test_large_pictures_do_not_blow_up_the_cnn() -> None:
    """Its stem halves them first, so 128 pixels cost no more than 48 after the stem."""
    small, large = (build_model(CnnConfig(), (side, side, 3), num_classes=10) for side in (32, 128))

    assert count_parameters(large) - count_parameters(small) < 30_000
    maps = large.stem(torch.rand(1, 3, 128, 128))
    assert max(maps.shape[2:]) <= 48


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_torchvision_classifier_gets_our_classes(name: str, channels: int) -> None:
    """Linear heads, convolutional heads and nested heads are all replaced."""
    shape = (64, 64, channels)
    model = build_model(CnnConfig(backbone=name), shape, num_classes=7).eval()

    assert model(torch.rand(2, channels, 64, 64)).shape == (2, 7)


def test_a_vit_of_torchvision_is_built_for_the_size_of_the_pictures() -> None:
    """It is made for one size, which is ours and not 224."""
    model = build_model(CnnConfig(backbone="vit_b_32"), (64, 64, 3), num_classes=3).eval()

    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("resnet19", (32, 32, 3), "no such classifier"),
        ("alexnet", (16, 16, 3), "does not take pictures of 16 x 16 pixels"),
        ("vit_b_16", (40, 40, 3), "cnn.model.backbone = 'vit_b_16'"),
    ],
)
def test_a_backbone_that_cannot_be_is_refused(
    name: str, shape: tuple[int, int, int], said: str
) -> None:
    """In one line, before workers are started over and over."""
    with pytest.raises(ConfigError, match=said):
        build_model(CnnConfig(backbone=name), shape, num_classes=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_whitened_has_variance_one_and_no_correlation(channels: int) -> None:
    """Of patches whose pixels say nearly the same; in one piece or, as large sets are, in several."""
    torch.manual_seed(0)
    noise = torch.randn(1000, channels, 40, 40)
    images = F.avg_pool2d(noise, 5, stride=1)  # (N, C, 36, 36): neighbours are alike
    whiten = Whiten(channels)
    whiten.fit_to(images)
    maps = F.conv2d(images, whiten.weight[:COMPONENTS], padding=whiten._padding(images))
    features = maps.permute(1, 0, 2, 3).flatten(1)
    found = features @ features.T / features.shape[1]

    assert images.numel() > PIXELS_AT_ONCE
    torch.testing.assert_close(found, torch.eye(len(found)), atol=0.1, rtol=0)
    assert torch.equal(whiten.weight[COMPONENTS:], -whiten.weight[:COMPONENTS])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 11, 12, 26, 32, 49, 50, 97, 130])
def test_the_stem_says_how_large_its_maps_are(side: int, channels: int) -> None:
    """By which rnn and transformer decide how often to halve them."""
    stem = Stem(side, side // 2, channels)
    assert max(stem(torch.rand(1, channels, side, side // 2)).shape[2:]) == stem.out_side


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_what_lies_in_the_cache_of_torch_is_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the right name there would run code of whoever put it there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(Evil(tmp_path / "ran"), cache / "resnet18-f37072fd.pth")

    with pytest.raises(ConfigError, match="holds more than weights"):
        build_model(CnnConfig(backbone="resnet18", pretrained=True), (64, 64, 3), 2)
    assert not (tmp_path / "ran").exists()


def test_published_weights_of_old_names_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of DenseNet were saved before its layers were called as they are today; torchvision knows."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    published = models.densenet121(weights=None).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): weight
        for name, weight in published.items()
        if not name.endswith("num_batches_tracked")  # which there was not yet
    }
    torch.save(old, cache / "densenet121-a639ec97.pth")
    model = build_model(CnnConfig(backbone="densenet121", pretrained=True), (64, 64, 3), 2)
    name = "features.denseblock1.denselayer1.norm1.running_mean"

    assert len(old.keys() & published.keys()) < len(published)
    assert torch.equal(model.state_dict()[f"network.{name}"], published[name])
