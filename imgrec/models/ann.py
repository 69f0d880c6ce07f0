"""A multi-layer perceptron: the plain artificial neural network.

Hidden layers of Linear, BatchNorm, ReLU and Dropout, then a linear layer to the logits. The batch
normalization (Ioffe & Szegedy 2015, arXiv:1502.03167) is what today's perceptrons add to
Rumelhart, Hinton & Williams 1986.
"""

from itertools import pairwise

from torch import Tensor, nn

from imgrec.config import AnnConfig, ImageShape
from imgrec.models.network import Network


class Ann(Network):
    """Every pixel is an input of its own; which pixels are neighbours is not used."""

    def __init__(self, config: AnnConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        height, width, channels = image_shape
        sizes = [height * width * channels, *config.hidden]
        self.hidden = nn.Sequential()
        for wide, narrow in pairwise(sizes):
            self.hidden += nn.Sequential(
                nn.Linear(wide, narrow, bias=False),
                nn.BatchNorm1d(narrow),
                nn.ReLU(),
                nn.Dropout(config.dropout),
            )
        self.head = nn.Linear(sizes[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        return self.classify(self.hidden(images.flatten(1)))
