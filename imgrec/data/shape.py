"""Which shape and which depth the images of a store have: given, or chosen from the pictures."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imgrec.config import DataConfig, ImageShape
from imgrec.data.depth import Depth, choose_depth, why_depth_is_doubtful
from imgrec.data.look import Looks, peek
from imgrec.data.parallel import map_in_chunks
from imgrec.data.sources.sample import Sample
from imgrec.errors import DataError

LARGEST_DEFAULT_SIDE = 128
PEEKED = 64


def guess(samples: Sequence[Sample], config: DataConfig) -> tuple[ImageShape, DataConfig]:
    """The shape of the store, and the settings with a depth, from a look at a few samples."""
    chosen = [sample.content for sample in samples[:: max(1, len(samples) // PEEKED)]]
    peeked = list(map_in_chunks(peek, chosen, config, workers=config.decode_workers))
    headers = [header for some in peeked for header, _ in some]
    sides = np.array([(header.height, header.width) for header in headers]).reshape(-1, 2)
    shape = _choose_shape(sides, all(header.grey for header in headers), config)
    peaks = np.array([peak for some in peeked for _, peak in some])
    modes = np.array([header.mode for header in headers], dtype="U8")
    depth = choose_depth(peaks, modes) if config.depth == "auto" else config.depth
    return shape, with_depth(config, depth)


def with_depth(config: DataConfig, depth: Depth) -> DataConfig:
    """The settings with a depth that was decided."""
    return config.model_copy(update={"depth": depth})


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


def shape_of(looks: Looks, config: DataConfig) -> ImageShape:
    """The shape that was set, or chosen from all pictures."""
    sides = np.stack([looks["height"], looks["width"]], axis=1)
    return _choose_shape(sides, bool(looks["grey"].all()), config)


def _choose_shape(
    sides: npt.NDArray[np.int64], every_one_grey: bool, config: DataConfig
) -> ImageShape:
    """From heights and widths (N, 2)."""
    channels = config.channels or (1 if every_one_grey else 3)
    if config.image_size:
        return (*config.image_size, channels)
    if not len(sides):
        return (1, 1, channels)
    height, width = sides[0].tolist()
    if (sides == sides[0]).all() and max(height, width) <= LARGEST_DEFAULT_SIDE:
        return (height, width, channels)
    side = max(1, min(int(np.median(sides.min(axis=1))), LARGEST_DEFAULT_SIDE))
    return (side, side, channels)
