"""Two recurrent networks that read a picture as a sequence.

ReNet (Visin et al. 2015, arXiv:1505.00393) sweeps over the places of a picture up and down, then left and
right, so that every place of a layer sees its whole column and row. GRU: Cho et al. 2014,
arXiv:1406.1078; LSTM: Hochreiter & Schmidhuber 1997; both ways: Schuster & Paliwal 1997.
Differences: by default a place is what a few convolutions make of it, as in Shi et al. 2015, "CRNN"
(arXiv:1507.05717), and not the pixels of a patch; dropout between layers, and an average over places
before one linear layer in place of two fully connected ones, so that any image size fits.

RowRnn reads rows of pixels from top to bottom and back, and averages over them.
"""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from imgrec.config import ImageShape, RnnConfig
from imgrec.models.convolution import tokens_by_convolution
from imgrec.models.network import Network
from imgrec.models.recurrent import Gru, Lstm

PATCHES_A_SIDE = 16


class RowRnn(Network):
    """H steps of C*W features."""

    def __init__(self, config: RnnConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        _, width, channels = image_shape
        self.rnn = _cell(config, width * channels, config.layers)
        self.norm = nn.LayerNorm(2 * config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * config.hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        rows = images.permute(0, 2, 1, 3).flatten(2)  # (B, H, C*W): H steps of C*W features
        states, _ = self.rnn(rows)  # (B, H, 2*hidden)
        return self.classify(self.dropout(self.norm(states.mean(dim=1))))


class ReNet(Network):
    """Layers of sweeps along the columns, then along the rows."""

    def __init__(self, config: RnnConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.tokens: nn.Module
        if config.tokens == "convolutions":
            features = config.hidden
            self.tokens = tokens_by_convolution(image_shape, features)
        else:
            height, width, channels = image_shape
            size = config.patch_size or max(1, -(-max(height, width) // PATCHES_A_SIDE))
            features = size**2 * channels
            self.tokens = _Patches(size)
        inputs = [features] + [2 * config.hidden] * (config.layers - 1)
        self.layers = nn.ModuleList(_Sweep(config, size) for size in inputs)
        self.norm = nn.LayerNorm(2 * config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * config.hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        places = self.tokens(images).permute(0, 2, 3, 1)  # (B, h, w, D)
        for layer in self.layers:
            places = self.dropout(layer(places))  # (B, h, w, 2*hidden)
        return self.classify(self.norm(places.mean(dim=(1, 2))))


class _Patches(nn.Module):
    """The pixels of every patch."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, size*size*C, h, w)."""
        size = self.size
        height, width = images.shape[2:]
        # Zero is the mean after normalization, so the padding says nothing.
        return F.pixel_unshuffle(F.pad(images, (0, -width % size, 0, -height % size)), size)


class _Sweep(nn.Module):
    """Up and down every column, then left and right along every row."""

    def __init__(self, config: RnnConfig, inputs: int) -> None:
        super().__init__()
        self.columns = _cell(config, inputs, 1)
        self.rows = _cell(config, 2 * config.hidden, 1)

    def forward(self, places: Tensor) -> Tensor:
        """Features of places (B, h, w, D) to (B, h, w, 2*hidden)."""
        batch, height, width, _ = places.shape
        down = places.transpose(1, 2).flatten(0, 1)  # (B*w, h, D)
        states, _ = self.columns(down)
        across = (
            states.unflatten(0, (batch, width)).transpose(1, 2).flatten(0, 1)
        )  # (B*h, w, 2*hid)
        states, _ = self.rows(across)
        return states.unflatten(0, (batch, height))


def _cell(config: RnnConfig, inputs: int, layers: int) -> nn.GRU | nn.LSTM:
    cell = Gru if config.cell == "gru" else Lstm
    return cell(
        inputs,
        config.hidden,
        num_layers=layers,
        batch_first=True,
        bidirectional=True,
        dropout=config.dropout if layers > 1 else 0.0,
    )
