"""A compact vision transformer.

Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words" (arXiv:2010.11929), with the changes
of Beyer et al. 2022, "Better plain ViT baselines for ImageNet-1k" (arXiv:2205.01580): fixed 2-D
sine-cosine positions and an average over tokens in place of a class token.
Difference: the patch size follows the picture, about 8 patches a side.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from imgrec.config import TransformerConfig
from imgrec.data.decode import ImageShape

PATCHES_A_SIDE = 8


class VisionTransformer(nn.Module):
    """Patches to tokens, blocks of attention, average, head."""

    def __init__(
        self, config: TransformerConfig, image_shape: ImageShape, num_classes: int
    ) -> None:
        super().__init__()
        height, width, channels = image_shape
        self.patch_size = config.patch_size or max(2, round(max(height, width) / PATCHES_A_SIDE))
        rows, columns = (-(-side // self.patch_size) for side in (height, width))
        self.embed = nn.Conv2d(channels, config.width, self.patch_size, stride=self.patch_size)
        self.positions = nn.Buffer(_positions(rows, columns, config.width), persistent=False)
        self.blocks = nn.Sequential(*(_Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        size = self.patch_size
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % size, 0, -height % size))
        tokens = self.embed(images).flatten(2).transpose(1, 2)  # (B, T, D)
        tokens = self.blocks(tokens + self.positions)
        return self.head(self.norm(tokens).mean(dim=1))


class _Block(nn.Module):
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


def _positions(rows: int, columns: int, width: int) -> Tensor:
    """(1, rows*columns, width): a quarter each of sine and cosine of y, then of x."""
    frequencies = 10_000.0 ** -torch.linspace(0, 1, width // 4)
    y = torch.arange(rows)[:, None, None] * frequencies  # (rows, 1, D/4)
    x = torch.arange(columns)[None, :, None] * frequencies  # (1, columns, D/4)
    y, x = y.expand(-1, columns, -1), x.expand(rows, -1, -1)
    return torch.cat([y.sin(), y.cos(), x.sin(), x.cos()], dim=2).flatten(0, 1)[None]
