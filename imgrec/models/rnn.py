"""Two recurrent networks that read a picture as a sequence.

RowRnn reads the rows from top to bottom and back (Schuster & Paliwal 1997, bidirectional; GRU: Cho
et al. 2014, arXiv:1406.1078; LSTM: Hochreiter & Schmidhuber 1997) and averages over them.

ReNet (Visin et al. 2015, arXiv:1505.00393) cuts the picture into patches and sweeps over them up and
down, then left and right, so that every place of a layer sees its whole column and row.
Differences: dropout between layers, and an average over places before one linear layer in place of
two fully connected ones, so that any image size fits.
"""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from imgrec.config import RnnConfig
from imgrec.data.decode import ImageShape

PATCHES_A_SIDE = 16


class RowRnn(nn.Module):
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
        return self.head(self.dropout(self.norm(states.mean(dim=1))))


class ReNet(nn.Module):
    """Layers of sweeps along the columns, then along the rows."""

    def __init__(self, config: RnnConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        height, width, channels = image_shape
        self.patch_size = config.patch_size or max(1, -(-max(height, width) // PATCHES_A_SIDE))
        inputs = [self.patch_size**2 * channels] + [2 * config.hidden] * (config.layers - 1)
        self.layers = nn.ModuleList(_Sweep(config, size) for size in inputs)
        self.norm = nn.LayerNorm(2 * config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * config.hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        size = self.patch_size
        height, width = images.shape[2:]
        # Zero is the mean after normalization, so the padding says nothing.
        images = F.pad(images, (0, -width % size, 0, -height % size))
        places = F.pixel_unshuffle(images, size).permute(0, 2, 3, 1)  # (B, h, w, size*size*C)
        for layer in self.layers:
            places = self.dropout(layer(places))  # (B, h, w, 2*hidden)
        return self.head(self.norm(places.mean(dim=(1, 2))))


class _Sweep(nn.Module):
    """Up and down every column, then left and right along every row."""

    def __init__(self, config: RnnConfig, inputs: int) -> None:
        super().__init__()
        self.columns = _cell(config, inputs, 1)
        self.rows = _cell(config, 2 * config.hidden, 1)

    def forward(self, places: Tensor) -> Tensor:
        """Places (B, h, w, D) to (B, h, w, 2*hidden)."""
        batch, height, width, _ = places.shape
        down = places.transpose(1, 2).flatten(0, 1)  # (B*w, h, D)
        states, _ = self.columns(down)
        across = (
            states.unflatten(0, (batch, width)).transpose(1, 2).flatten(0, 1)
        )  # (B*h, w, 2*hid)
        states, _ = self.rows(across)
        return states.unflatten(0, (batch, height))


def _cell(config: RnnConfig, inputs: int, layers: int) -> nn.GRU | nn.LSTM:
    cell = nn.GRU if config.cell == "gru" else nn.LSTM
    return cell(
        inputs,
        config.hidden,
        num_layers=layers,
        batch_first=True,
        bidirectional=True,
        dropout=config.dropout if layers > 1 else 0.0,
    )
