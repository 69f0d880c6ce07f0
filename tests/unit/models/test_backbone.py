"""The classifiers of torchvision, and their published weights."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from imgrec.config import CnnConfig
from imgrec.errors import ConfigError
from imgrec.models import build_model


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
