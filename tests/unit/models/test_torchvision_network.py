"""Models that were registered when networks were torchvision's."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from imgrec.classifier import WEIGHTS, Classifier
from imgrec.errors import ClassifierError
from imgrec.models.torchvision_network import TorchvisionNetwork
from imgrec.named import CARD

OLD_CARD = {
    "format": 4,
    "image_shape": [64, 64, 3],
    "resize": "fill",
    "max_pixels": 50_000_000,
    "depth": 16,
    "filters": [],
    "statistics": {"mean": [0.5] * 3, "std": [0.2] * 3},
    "class_names": ["a", "b", "c"],
    "temperature": 1.3,
    "log_priors": [],
    "made_by": {},
}


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "vit_b_32"])
def test_a_registered_network_of_torchvision_still_answers(name: str, tmp_path: Path) -> None:
    """Linear heads, convolutional heads and nested heads; with the settings that were written on its card."""
    torch.manual_seed(0)
    network = TorchvisionNetwork(name, (64, 64, 3), 3).eval()
    model = {"arch": "cnn", "backbone": name, "pretrained": True}
    model |= {"widths": [32, 128, 256], "dropout": 0.0}
    (tmp_path / CARD).write_text(json.dumps(OLD_CARD | {"model": model}))
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(weights, tmp_path / WEIGHTS)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    classifier = Classifier.load(tmp_path)
    with torch.inference_mode():
        expected = network((images / 255 - 0.5) / 0.2)

    torch.testing.assert_close(classifier.logits(images), expected, atol=1e-4, rtol=1e-4)
    classifier.with_card(temperature=2.0).save(tmp_path / "again")
    torch.testing.assert_close(
        Classifier.load(tmp_path / "again").logits(images), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    "broken",
    [{"model": 3}, {"image_shape": None}, {"image_shape": []}, {"model": {"backbone": "resnet18"}}],
    ids=str,
)
def test_a_broken_card_of_then_is_one_line(broken: dict[str, object], tmp_path: Path) -> None:
    """What is added to it must not hide that something is missing."""
    model = {"arch": "ann", "hidden": [8]}
    (tmp_path / CARD).write_text(json.dumps(OLD_CARD | {"model": model} | broken))

    with pytest.raises(ClassifierError, match="a broken classifier"):
        Classifier.load(tmp_path)


def test_a_registered_compact_network_still_answers(tmp_path: Path) -> None:
    """Its card does not say what later ones do."""
    from imgrec.config import AnnConfig
    from imgrec.models import build_model

    network = build_model(AnnConfig(hidden=(8,)), (64, 64, 3), 3)
    model = {"arch": "ann", "hidden": [8], "dropout": 0.1}
    (tmp_path / CARD).write_text(json.dumps(OLD_CARD | {"model": model}))
    save_file(network.state_dict(), tmp_path / WEIGHTS)
    classifier = Classifier.load(tmp_path)

    assert classifier.card.stored_shape == (64, 64, 3)
    assert classifier.card.model.backbone == "compact"
