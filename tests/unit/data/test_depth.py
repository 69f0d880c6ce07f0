"""Greys of more than 8 bits: one depth for all pictures of a set."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgrec.data.decode import read_picture
from imgrec.data.depth import FULL_DEPTH, Depth, choose_depth, why_depth_is_doubtful
from tests.unit.data.made import MAX_PIXELS, encoded


@pytest.mark.parametrize(
    ("values", "depth"),
    [
        (np.arange(4096, dtype=np.uint16).reshape(64, 64), 12),
        (np.arange(65_536, dtype=np.uint16).reshape(256, 256), 16),
        (np.arange(256, dtype=np.int32).reshape(16, 16), 8),
        (np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64), "unit"),
        (np.linspace(0, 255, 4096, dtype=np.float32).reshape(64, 64), 8),
    ],
)
def test_deep_greys_keep_all_levels_that_eight_bits_have(values: np.ndarray, depth: Depth) -> None:
    """Twelve bits in a file for sixteen would be sixteen levels of black."""
    content = encoded(Image.fromarray(values), "TIFF")
    looked = read_picture(content, max_pixels=MAX_PIXELS)
    chosen = choose_depth(np.array([looked.peak]), np.array([looked.header.mode]))
    pixels = read_picture(content, max_pixels=MAX_PIXELS, depth=chosen).pixels

    assert chosen == depth
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(np.unique(pixels)) == 256


@pytest.mark.parametrize(("dtype", "usual", "hot"), [(np.int32, 200, 300), (np.float32, 0.8, 1.01)])
def test_a_hot_pixel_changes_no_other(dtype: Any, usual: float, hot: float) -> None:
    """The range is that of the set, not of each picture."""
    values = np.full((8, 8), usual, dtype)
    spoilt = values.copy()
    spoilt[0, 0] = hot
    contents = [encoded(Image.fromarray(one), "TIFF") for one in (values, spoilt)]
    looked = [read_picture(content, max_pixels=MAX_PIXELS) for content in contents]
    depth = choose_depth(
        np.array([one.peak for one in looked]), np.array([one.header.mode for one in looked])
    )
    plain, other = (
        read_picture(content, max_pixels=MAX_PIXELS, depth=depth).pixels for content in contents
    )

    assert plain[4, 4] == other[4, 4] == round(255 * usual if usual < 1 else usual)
    assert other[0, 0] == 255


@pytest.mark.parametrize(
    ("peaks", "modes", "reason"),
    [
        ([1.02, 0.9], ["F", "F"], "floats up to 1.02"),
        ([0.9, 4000], ["F", "I;16"], "some greys are floats and some are integers"),
        ([1.0, 0.3], ["F", "F"], ""),
        ([255.0, 200.0], ["F", "F"], ""),
        ([4000, 0], ["I;16", "RGB"], ""),
    ],
)
def test_floats_whose_white_cannot_be_told_are_refused(
    peaks: list[float], modes: list[str], reason: str
) -> None:
    """To take 1.02 for the brightest of eight bits would make all of them black."""
    found = why_depth_is_doubtful(np.array(peaks), np.array(modes))
    assert bool(found) == bool(reason)
    assert reason in found


def test_a_set_without_deep_greys_takes_later_ones_by_their_full_depth() -> None:
    """There is nothing to go by."""
    assert choose_depth(np.zeros(3), np.array(["L", "RGB", "L"])) == FULL_DEPTH
