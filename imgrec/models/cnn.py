"""A compact convolutional network.

Source: the shape of Keller Jordan's airbench94 (2024, arXiv:2404.00498), which goes back to David
Page's ResNet-9 (2018): a stem, then blocks of convolution, pooling, and convolution with batch
normalization and GELU, a global maximum and one linear layer.
Differences: a trained 3x3 stem in place of the whitened 2x2 one; for pictures above 48 pixels the
stem halves them until the blocks see at most 48, so that the cost stays bounded; pictures too small
to be halved again are not; logits are scaled down by a fixed factor as in both sources.
"""

from itertools import pairwise

import torch.nn.functional as F  # noqa: N812 - the name that every reader of torch knows
from torch import Tensor, nn

from imgrec.config import CnnConfig
from imgrec.data.decode import ImageShape

STEM_WIDTH = 32
LARGEST_MAP = 48
LOGIT_SCALE = 1 / 4


class Cnn(nn.Module):
    """Stem, blocks that halve the picture, global maximum, head."""

    def __init__(self, config: CnnConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        height, width, channels = image_shape
        self.stem = nn.Sequential(_conv(channels, STEM_WIDTH), *_norm_act(STEM_WIDTH))
        while max(height, width) > LARGEST_MAP:
            self.stem += nn.Sequential(
                _conv(STEM_WIDTH, STEM_WIDTH, stride=2), *_norm_act(STEM_WIDTH)
            )
            height, width = -(-height // 2), -(-width // 2)
        self.blocks = nn.Sequential(
            *(_Block(narrow, wide) for narrow, wide in pairwise([STEM_WIDTH, *config.widths]))
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.widths[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        maps = self.blocks(self.stem(images))  # (B, D, h, w)
        features = maps.amax(dim=(2, 3))  # (B, D)
        return self.head(self.dropout(features)) * LOGIT_SCALE


class _Block(nn.Module):
    """Convolve to more channels, halve, convolve again."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.widen = _conv(narrow, wide)
        self.norm1 = nn.BatchNorm2d(wide, momentum=0.4)
        self.refine = _conv(wide, wide)
        self.norm2 = nn.BatchNorm2d(wide, momentum=0.4)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, narrow, h, w) to (B, wide, h/2, w/2)."""
        maps = self.widen(maps)
        if min(maps.shape[2:]) > 1:
            maps = F.max_pool2d(maps, 2)
        maps = F.gelu(self.norm1(maps))
        return F.gelu(self.norm2(self.refine(maps)))


def _conv(narrow: int, wide: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(narrow, wide, kernel_size=3, stride=stride, padding=1, bias=False)


def _norm_act(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width, momentum=0.4), nn.GELU()
