"""A compact vision transformer.

Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words" (arXiv:2010.11929), with the changes
of Beyer et al. 2022, "Better plain ViT baselines for ImageNet-1k" (arXiv:2205.01580): fixed 2-D
sine-cosine positions and an average over tokens in place of a class token. Tokens come from a few
convolutions, as in Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers"
(arXiv:2104.05704): without them a transformer learns from more pictures than most have what a
neighbourhood is. `patches` are those of 2021.
Differences: the convolutions are those of our cnn; patches follow the size of the picture, about 8 a side;
positions are measured in shares of the picture, so that it may come in any size.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from imgrec.config import ImageShape, TransformerConfig
from imgrec.models.convolution import tokens_by_convolution
from imgrec.models.network import Network

TOKENS_A_SIDE = 8


class VisionTransformer(Network):
    """Tokens, blocks of attention, average, head."""

    def __init__(
        self, config: TransformerConfig, image_shape: ImageShape, num_classes: int
    ) -> None:
        super().__init__()
        self.tokens: nn.Module = (
            tokens_by_convolution(image_shape, config.width)
            if config.tokens == "convolutions"
            else _Patches(config, image_shape)
        )
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        maps = self.tokens(images)  # (B, D, h, w)
        tokens = maps.flatten(2).transpose(1, 2) + _positions(maps)  # (B, T, D)
        return self.classify(self.norm(self.blocks(tokens)).mean(dim=1))


class _Patches(nn.Module):
    """One linear layer on the pixels of every patch."""

    def __init__(self, config: TransformerConfig, image_shape: ImageShape) -> None:
        super().__init__()
        height, width, channels = image_shape
        self.size = config.patch_size or max(2, round(max(height, width) / TOKENS_A_SIDE))
        self.embed = nn.Conv2d(channels, config.width, self.size, stride=self.size)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, D, h, w)."""
        height, width = images.shape[2:]
        return self.embed(F.pad(images, (0, -width % self.size, 0, -height % self.size)))


class Block(nn.Module):
    """Attention, then a two-layer perceptron on every token; each normalized before and added."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) to (B, T, D)."""
        tokens = tokens + self.dropout(self._attend(self.norm1(tokens)))
        return tokens + self.dropout(self.mlp(self.norm2(tokens)))

    def _attend(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, T, D/heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


def _positions(maps: Tensor) -> Tensor:
    """For maps (B, D, h, w) their (1, h*w, D): a quarter each of sine and cosine of y, then of x.

    In eighths of the longer side, whatever its resolution.
    """
    width, rows, columns = maps.shape[1:]
    frequencies = 10_000.0 ** -torch.linspace(0, 1, width // 4, device=maps.device)
    unit = TOKENS_A_SIDE / max(rows, columns)
    y = (torch.arange(rows, device=maps.device) * unit)[:, None, None] * frequencies  # (h, 1, D/4)
    x = (torch.arange(columns, device=maps.device) * unit)[None, :, None] * frequencies
    y, x = y.expand(-1, columns, -1), x.expand(rows, -1, -1)
    return torch.cat([y.sin(), y.cos(), x.sin(), x.cos()], dim=2).flatten(0, 1)[None]
