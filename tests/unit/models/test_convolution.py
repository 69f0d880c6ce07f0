"""The parts that cnn, rnn and transformer begin with."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from imgrec.models.convolution import COMPONENTS, PIXELS_AT_ONCE, Stem, Whiten


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
