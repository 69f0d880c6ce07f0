"""All architectures keep one contract: any picture size in, K logits out, and they can learn."""

from typing import cast

import pytest
import torch

from imgrec.config import AnnConfig, CnnConfig, ModelConfig, RnnConfig, TransformerConfig
from imgrec.config.architectures import MODEL_CONFIGS
from imgrec.models import build_model, count_parameters

CONFIGS: list[ModelConfig] = [
    *(cast("ModelConfig", kind()) for kind in MODEL_CONFIGS.values()),
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
    settings = [f"{key}={config.model_dump()[key]}" for key in sorted(config.model_fields_set)]
    return "-".join([config.arch, *settings])


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
