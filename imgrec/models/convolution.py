"""Parts of networks that begin with convolutions.

Source: Keller Jordan's airbench94 (2024, arXiv:2404.00498), which goes back to David Page's ResNet-9
(2018): a first layer that whitens small patches, with weights from the data that are not trained; then
blocks of convolution, pooling, and convolution, with batch normalization and GELU.
Differences: patches are of 3x3 pixels, of grey pictures 5x5, and of their components the first 16 are
taken, for convolutions are at their best with multiples of 32 channels (docs/log.md); no bias is
trained there; for pictures above 48 pixels strided convolutions halve them until the blocks see at most
48, so that the cost stays bounded; pictures too small to be halved again are not.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from imgrec.config import ImageShape

LARGEST_MAP = 48
MOST_TOKENS_A_SIDE = 12
LEAST_WIDTH = 32
COMPONENTS = 16
LEAST_VARIANCE = 5e-4
LEAST_UNPADDED = 12
PIXELS_AT_ONCE = 1 << 20


class Stem(nn.Module):
    """Whitened patches of the picture, halved until they are at most 48 a side.

    Attributes:
        out_channels: D.
        out_side: The longer side of what comes out, for pictures of the size that was told.
    """

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.whiten = Whiten(channels)
        self.out_channels = self.whiten.out_channels
        self.shrink = nn.Sequential()
        self.out_side = max(height, width) - self.whiten.lost(min(height, width))
        while self.out_side > LARGEST_MAP:
            self.shrink += nn.Sequential(
                NormedConv(self.out_channels, self.out_channels, stride=2),
                _norm(self.out_channels),
                nn.GELU(),
            )
            self.out_side = -(-self.out_side // 2)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, D, h, w)."""
        return self.shrink(self.whiten(images))


class Whiten(nn.Module):
    """Patches as their first principal components, each of variance 1, and the negative of each; then GELU.

    Neighbouring pixels are strongly correlated, and a network would first have to learn their differences.
    Here `fit_to` computes them from the data. The layer is not trained, so no gradient is computed at the
    largest resolution.
    """

    out_channels = 2 * COMPONENTS

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.patch_size = 3 if channels > 1 else 5
        numbers = channels * self.patch_size**2
        # Until they are fitted: the pixels in the middle of a patch.
        first = (numbers - COMPONENTS) // 2
        pixels = torch.eye(numbers)[first : first + COMPONENTS]
        pixels = pixels.view(-1, channels, self.patch_size, self.patch_size)
        self.weight = nn.Buffer(torch.cat([pixels, -pixels]))

    @torch.no_grad()
    def fit_to(self, images: Tensor) -> None:
        """Take the weights from pictures (N, C, H, W), normalized as they will come in training."""
        numbers = self.weight[0].numel()
        images = images.cpu() if images.device.type == "mps" else images  # which has no float64
        total = torch.zeros(numbers, numbers, dtype=torch.float64, device=images.device)
        for some in torch.split(images, max(1, PIXELS_AT_ONCE // images[0].numel())):
            patches = F.unfold(some, self.patch_size, padding=self._padding(some))
            patches = patches.transpose(1, 2).flatten(0, 1).double()  # (n, C*s*s)
            total += patches.T @ patches / len(images)
        places = patches.shape[0] // len(some)
        variances, components = torch.linalg.eigh(total / places)
        scaled = components / (variances + LEAST_VARIANCE).sqrt()  # (C*s*s, C*s*s), by column
        weight = scaled.T.flip(0)[:COMPONENTS].reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([weight, -weight]))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, D, h, w): two pixels less a side for colour, the same for grey."""
        return F.gelu(F.conv2d(images, self.weight, padding=self._padding(images)))

    def lost(self, side: int) -> int:
        """By how many pixels each side shrinks, for pictures whose shorter side has `side` pixels."""
        return self.patch_size - 1 if self._is_unpadded(side) else 0

    def _is_unpadded(self, side: int) -> bool:
        """Colour pictures are, which makes later layers cheaper; small ones would lose too much."""
        return self.channels > 1 and side >= LEAST_UNPADDED

    def _padding(self, images: Tensor) -> int:
        return 0 if self._is_unpadded(min(images.shape[2:])) else self.patch_size // 2


class ConvBlock(nn.Module):
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


def tokens_by_convolution(image_shape: ImageShape, width: int) -> nn.Sequential:
    """Pictures (B, C, H, W) to maps (B, width, h, w) of at most 12 places a side.

    Whitening, and blocks that halve the picture: at least one. A side of one place is not halved again, nor
    is the other then, so of very wide pictures there are more.
    """
    stem = Stem(*image_shape)
    halvings, side = 1, stem.out_side // 2
    while side > MOST_TOKENS_A_SIDE:
        halvings, side = halvings + 1, side // 2
    layers: list[nn.Module] = [stem]
    narrow = stem.out_channels
    for left in reversed(range(halvings)):
        # The places are quartered from one to the next, which leaves room for four times the channels.
        wide = width if not left else max(LEAST_WIDTH, width // 4**left)
        layers.append(ConvBlock(narrow, wide))
        narrow = wide
    return nn.Sequential(*layers)


def _norm(width: int) -> nn.BatchNorm2d:
    """Batch normalization without a trained scale: the layer behind it is nearly linear in the scale."""
    norm = nn.BatchNorm2d(width, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
