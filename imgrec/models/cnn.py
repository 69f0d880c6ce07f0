"""A compact convolutional network.

Source: Keller Jordan's airbench94 (2024, arXiv:2404.00498), of whose parts imgrec/models/convolution.py
is made: whitening, blocks that halve the picture, a global maximum and one linear layer, whose logits
are scaled down by a fixed factor.
Difference: its first block has half the channels, since it has four times the places of the
next (docs/log.md).
"""

from itertools import pairwise

from torch import Tensor, nn

from imgrec.config import CnnConfig, ImageShape
from imgrec.models.convolution import ConvBlock, Stem
from imgrec.models.network import Network


class Cnn(Network):
    """Whitening, blocks that halve the picture, global maximum, head."""

    logit_scale = 1 / 4

    def __init__(self, config: CnnConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.stem = Stem(*image_shape)
        self.blocks = nn.Sequential(
            *(
                ConvBlock(narrow, wide)
                for narrow, wide in pairwise([self.stem.out_channels, *config.widths])
            )
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.widths[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        maps = self.blocks(self.stem(images))  # (B, D, h, w)
        features = maps.amax(dim=(2, 3))  # (B, D)
        return self.classify(self.dropout(features))
