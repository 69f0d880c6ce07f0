"""A wide depthwise kernel learns what torch's own gradient says, column by column."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from imgrec.config import CnnConfig
from imgrec.models import build_model, depthwise, folding
from imgrec.models.build import lay_out
from imgrec.models.depthwise import convolve, is_wide
from imgrec.models.folding import FoldingConv


def made(channels: int, side: int, height: int, width: int) -> list[Tensor]:
    """Maps in channels_last, kernel and bias, in float64, where rounding hides nothing."""
    torch.manual_seed(0)
    maps = torch.randn(3, channels, height, width, dtype=torch.float64)
    kernel = torch.randn(channels, 1, side, side, dtype=torch.float64)
    bias = torch.randn(channels, dtype=torch.float64)
    maps = maps.to(memory_format=torch.channels_last)
    return [one.requires_grad_() for one in (maps, kernel, bias)]


@pytest.mark.parametrize("side", [5, 7, 9])
@pytest.mark.parametrize(("height", "width"), [(14, 14), (7, 7), (5, 9), (1, 2), (6, 1)])
def test_gradients_are_those_of_torch(side: int, height: int, width: int) -> None:
    """Whether the columns divide the width or not, and where the kernel is wider than the picture."""
    ours, theirs = made(4, side, height, width), made(4, side, height, width)
    weights = torch.randn(3, 4, height, width, dtype=torch.float64)
    said = convolve(*ours)
    expected = F.conv2d(*theirs, padding=side // 2, groups=4)
    for out in (said, expected):
        (out * weights).sum().backward()

    torch.testing.assert_close(said, expected)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_only_what_is_asked_for_is_computed() -> None:
    """The first layer that learns needs no gradient of its maps, and a frozen one none of its kernel."""
    maps, kernel, _ = made(4, 5, 6, 6)
    for learns in (maps, kernel):
        for one in (maps, kernel):
            one.grad = None
            one.requires_grad_(one is learns)
        convolve(maps, kernel, None).sum().backward()
        assert learns.grad is not None
        assert sum(one.grad is not None for one in (maps, kernel)) == 1


@pytest.mark.parametrize(
    ("options", "slow"),
    [
        ({}, True),
        ({"kernel_size": 3, "padding": 1}, False),
        ({"stride": 2}, False),
        ({"padding": 0}, False),
        ({"dilation": 2}, False),
        ({"groups": 2}, False),
        ({"out_channels": 16}, False),
        ({"padding_mode": "reflect"}, False),
        ({"kernel_size": (5, 7)}, False),
        ({"kernel_size": 11, "padding": 5}, False),
    ],
)
def test_other_layers_are_torchs(
    options: dict[str, object], slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Narrow kernels, which oneDNN has a fast gradient of, what the trick does not hold for, and all where there is none."""
    monkeypatch.setattr(depthwise, "has_onednn", lambda: True)
    usual = {"in_channels": 8, "out_channels": 8, "kernel_size": 5, "padding": 2, "groups": 8}
    layer = nn.Conv2d(**(usual | options))  # type: ignore[arg-type]
    maps = torch.zeros(2, 8, 8, 8)

    assert is_wide(layer, maps.to(memory_format=torch.channels_last)) == slow
    assert not is_wide(layer, maps)
    assert not is_wide(layer, maps.to("meta", memory_format=torch.channels_last))
    monkeypatch.setattr(depthwise, "has_onednn", lambda: False)
    assert not is_wide(layer, maps.to(memory_format=torch.channels_last))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_in_narrow_arithmetic_it_learns_what_that_can_tell(dtype: torch.dtype, bits: int) -> None:
    """Each gradient is a sum of products of numbers with so many bits, kept with more and rounded once at its end."""
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 5, padding=2, groups=8)
    layer.__class__ = FoldingConv
    maps = lay_out_images(torch.randn(4, 8, 14, 14)).to(dtype).float().requires_grad_()
    layer.weight.data = layer.weight.data.to(dtype).float()
    expected = torch.autograd.grad(layer(maps).sum(), [maps, layer.weight])
    assert is_wide(layer, maps)
    with torch.autocast("cpu", dtype=dtype):
        said = layer(maps)
    ours = torch.autograd.grad(said.sum(), [maps, layer.weight])

    assert said.dtype == dtype
    for one, other in zip(ours, expected, strict=True):
        assert one.dtype == torch.float32
        # One rounding; the sum over the phases of a distance is another, of numbers that may be larger.
        near = 2 ** (1 - bits) * float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=near)


def test_a_network_learns_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """EfficientNet-Lite0, which photos begin with, has seven such layers; each parameter gets torch's own gradient."""
    config = CnnConfig(backbone="tf_efficientnet_lite0", pretrained=False)
    model = lay_out(build_model(config, (32, 32, 3), num_classes=3)).double().eval()
    images = lay_out_images(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    monkeypatch.setattr(depthwise, "has_onednn", lambda: True)
    seen = list[bool]()

    def watched(layer: nn.Conv2d, maps: Tensor) -> bool:
        seen.append(is_wide(layer, maps))
        return seen[-1]

    monkeypatch.setattr(folding, "is_wide", watched)
    ours = torch.autograd.grad(model(images).square().sum(), [*model.parameters()])
    monkeypatch.setattr(folding, "is_wide", lambda *_: False)
    expected = torch.autograd.grad(model(images).square().sum(), [*model.parameters()])

    assert sum(seen) == 7
    torch.testing.assert_close(ours, expected)


def lay_out_images(images: Tensor) -> Tensor:
    return images.to(memory_format=torch.channels_last)
