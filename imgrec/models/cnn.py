"""A compact convolutional network.

Source: Keller Jordan's airbench94 (2024, arXiv:2404.00498), which goes back to David Page's ResNet-9
(2018): a first layer that whitens small patches, with weights from the data that are not trained; then
blocks of convolution, pooling, and convolution, with batch normalization and GELU; a global maximum and
one linear layer.
Differences: for pictures above 48 pixels strided convolutions halve them until the blocks see at most
48, so that the cost stays bounded; pictures too small to be halved again are not; grey pictures, whose
2x2 patches have four numbers only, are whitened in 3x3; logits are scaled down by a fixed factor as in
both sources.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every reader of torch knows
from torch import Tensor, nn

from imgrec.config import CnnConfig
from imgrec.data.decode import ImageShape

LARGEST_MAP = 48
LOGIT_SCALE = 1 / 4
LEAST_VARIANCE = 5e-4


class Cnn(nn.Module):
    """Whitening, blocks that halve the picture, global maximum, head."""

    def __init__(self, config: CnnConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        height, width, channels = image_shape
        self.whiten = Whiten(channels)
        stem_width = self.whiten.out_channels
        self.shrink = nn.Sequential()
        while max(height, width) > LARGEST_MAP:
            self.shrink += nn.Sequential(
                NormedConv(stem_width, stem_width, stride=2), _norm(stem_width), nn.GELU()
            )
            height, width = -(-height // 2), -(-width // 2)
        self.blocks = nn.Sequential(
            *(_Block(narrow, wide) for narrow, wide in pairwise([stem_width, *config.widths]))
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.widths[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        maps = self.blocks(self.shrink(self.whiten(images)))  # (B, D, h, w)
        features = maps.amax(dim=(2, 3))  # (B, D)
        return self.head(self.dropout(features)) * LOGIT_SCALE


class Whiten(nn.Module):
    """Patches as their principal components, each of variance 1, and the negative of each; then GELU.

    Neighbouring pixels say nearly the same; so a network first has to learn to take their differences.
    Here it is told how, by `fit_to`. Only the biases are trained.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.patch_size = 2 if channels > 1 else 3
        components = channels * self.patch_size**2
        self.out_channels = 2 * components
        # Until they are fitted: the pixels of a patch themselves.
        pixels = torch.eye(components).view(components, channels, self.patch_size, self.patch_size)
        self.weight = nn.Buffer(torch.cat([pixels, -pixels]))
        self.bias = nn.Parameter(torch.zeros(self.out_channels))

    @torch.no_grad()
    def fit_to(self, images: Tensor) -> None:
        """Take the weights from pictures (N, C, H, W), normalized as they will come in training."""
        patches = F.unfold(images, self.patch_size).transpose(1, 2).flatten(0, 1).double()
        variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))
        scaled = components / (variances + LEAST_VARIANCE).sqrt()  # (C*s*s, C*s*s), by column
        weight = scaled.T.flip(0).reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([weight, -weight]))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, D, h, w): one pixel less a side for colour, the same for grey."""
        padding = self.patch_size // 3
        return F.gelu(F.conv2d(images, self.weight, self.bias, padding=padding))


class _Block(nn.Module):
    """Convolve to more channels, halve, convolve again."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.widen = NormedConv(narrow, wide)
        self.norm1 = _norm(wide)
        self.refine = NormedConv(wide, wide)
        self.norm2 = _norm(wide)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, narrow, h, w) to (B, wide, h/2, w/2)."""
        maps = self.widen(maps)
        if min(maps.shape[2:]) > 1:
            maps = F.max_pool2d(maps, 2)
        maps = F.gelu(self.norm1(maps))
        return F.gelu(self.norm2(self.refine(maps)))


class NormedConv(nn.Conv2d):
    """3x3, before a batch normalization: the norm of its kernel has no effect, and may be kept fixed.

    Its first kernels pass their inputs on, so that the network begins with what is there.
    """

    def __init__(self, narrow: int, wide: int, stride: int = 1) -> None:
        super().__init__(narrow, wide, kernel_size=3, stride=stride, padding=1, bias=False)
        with torch.no_grad():
            nn.init.dirac_(self.weight[: min(narrow, wide)])


def _norm(width: int) -> nn.BatchNorm2d:
    """Without a trained scale: what follows is nearly linear in it."""
    norm = nn.BatchNorm2d(width, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
