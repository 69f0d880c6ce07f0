"""Which shape and which depth the images of a store have: given, or chosen from the pictures."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imgrec.config import DataConfig, ImageShape
from imgrec.data.decode import Decoding
from imgrec.data.depth import Depth, choose_depth, why_depth_is_doubtful
from imgrec.data.look import Looks, peek
from imgrec.data.parallel import map_in_chunks
from imgrec.data.sources.sample import Sample
from imgrec.errors import DataError

LARGEST_DEFAULT_SIDE = 128
LEAST_PHOTO_SIDE = 96
PEEKED = 64


def guess(samples: Sequence[Sample], config: DataConfig, photo_side: int) -> Decoding:
    """How pictures become those of the store, its shape and the depth of its greys from a look at a few."""
    chosen = [sample.content for sample in samples[:: max(1, len(samples) // PEEKED)]]
    wants_peaks = config.depth == "auto"
    peeked = list(
        map_in_chunks(peek, chosen, config.max_pixels, wants_peaks, workers=config.decode_workers)
    )
    headers = [header for some in peeked for header, _ in some]
    sides = np.array([(header.height, header.width) for header in headers]).reshape(-1, 2)
    every_one_grey = all(header.grey for header in headers)
    shape = _choose_shape(sides, every_one_grey, config, photo_side)
    peaks = np.array([peak for some in peeked for _, peak in some])
    modes = np.array([header.mode for header in headers], dtype="U8")
    depth = choose_depth(peaks, modes) if config.depth == "auto" else config.depth
    return Decoding(shape, config.resize, config.max_pixels, depth)


def depth_of(looks: Looks, config: DataConfig) -> Depth:
    """The depth that was set, or chosen from all pictures.

    Raises:
        DataError: it cannot be told from them.
    """
    if config.depth != "auto":
        return config.depth
    if doubt := why_depth_is_doubtful(looks["peak"], looks["mode"]):
        msg = f"{config.source}: {doubt}set data.depth to unit, or to the number of bits that are used"
        raise DataError(msg)
    return choose_depth(looks["peak"], looks["mode"])


def shape_of(looks: Looks, config: DataConfig, photo_side: int) -> ImageShape:
    """The shape that was set, or chosen from all pictures."""
    return _choose_shape(_sides_of(looks), bool(looks["grey"].all()), config, photo_side)


def are_photos(looks: Looks, channels: int) -> bool:
    """Whether the pictures of a store are photos, of which other networks have learned.

    The rule: colours, and a median shorter side of 96 pixels at least.
    """
    return _are_photos(_sides_of(looks), channels)


def compact_size(looks: Looks, config: DataConfig) -> tuple[int, int]:
    """Height and width for networks that have no size of their own.

    What was set; else the size that all pictures share, where it is at most 128 pixels a side; else a square of
    the median shorter side, of at most 128 pixels.
    """
    return _compact_size(_sides_of(looks), config)


def _sides_of(looks: Looks) -> npt.NDArray[np.int64]:
    return np.stack([looks["height"], looks["width"]], axis=1)


def _choose_shape(
    sides: npt.NDArray[np.int64], every_one_grey: bool, config: DataConfig, photo_side: int
) -> ImageShape:
    """From heights and widths (N, 2)."""
    channels = config.channels or (1 if every_one_grey else 3)
    height, width = _compact_size(sides, config)
    if photo_side > max(height, width) and _are_photos(sides, channels):
        if config.image_size:
            scale = photo_side / max(height, width)
            return (round(scale * height), round(scale * width), channels)
        side = max(height, width, min(_median_side(sides), photo_side))
        return (side, side, channels)
    return (height, width, channels)


def _are_photos(sides: npt.NDArray[np.int64], channels: int) -> bool:
    return channels == 3 and len(sides) > 0 and _median_side(sides) >= LEAST_PHOTO_SIDE


def _compact_size(sides: npt.NDArray[np.int64], config: DataConfig) -> tuple[int, int]:
    if config.image_size:
        return config.image_size
    if not len(sides):
        return (1, 1)
    height, width = sides[0].tolist()
    if (sides == sides[0]).all() and max(height, width) <= LARGEST_DEFAULT_SIDE:
        return (height, width)
    side = max(1, min(_median_side(sides), LARGEST_DEFAULT_SIDE))
    return (side, side)


def _median_side(sides: npt.NDArray[np.int64]) -> int:
    return int(np.median(sides.min(axis=1)))
