"""Greys of more than 8 bits, brought to 8: one depth for all of a set."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
# Greys of more than 8 bits: what cameras and scanners make.
DEPTHS = (8, 10, 12, 14, 16)
# Of a picture's values, and of a set's pictures, what may lie above the white that is chosen from them.
HOT_PIXELS, HOT_PICTURES = 1000, 100
# Greys of floats: where the brightest are between these, white may be 1, or the largest integer of some bits.
DOUBTFUL_WHITES = (1.0, 100.0)
Depth = int | Literal["unit"]
"""Of greys with more than 8 bits: how many of their bits are used, or `unit` for floats from 0 to 1."""
FULL_DEPTH = 16


def to_eight_bits(values: npt.NDArray[Any], depth: Depth) -> npt.NDArray[np.uint8]:
    """Greys of 16 bits, 32 bits or floats as 8 bits; Pillow's own convert would cut them off at 255."""
    white = 1.0 if depth == "unit" else float((1 << depth) - 1)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=white, neginf=0.0)
        return np.round(np.clip(values, 0, white) * (255 / white)).astype(np.uint8)
    return (np.clip(values, 0, white).astype(np.int64) * 256 // int(white + 1)).astype(np.uint8)


def peak_of(values: npt.NDArray[Any]) -> float:
    """The brightest value but for one in HOT_PIXELS, and at least one: a dead pixel says nothing."""
    flat = values.ravel()
    if flat.dtype.kind == "f":
        flat = np.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0)
    left_out = min(len(flat) - 1, max(1, len(flat) // HOT_PIXELS))
    return float(np.partition(flat, len(flat) - 1 - left_out)[-1 - left_out])


def choose_depth(peaks: npt.NDArray[np.floating[Any]], modes: npt.NDArray[np.str_]) -> Depth:
    """The depth of a set of pictures, from what they are like.

    The rule: `unit` where all that are deep are floats and reach 1 at most; else the fewest of DEPTHS, or
    of 32 bits, that hold the brightest values. One picture in a hundred may be brighter.

    Args:
        peaks: Of the pictures, (N,); 0 of those that are not deep.
        modes: As Pillow calls them, (N,).
    """
    deep = np.isin(modes, sorted(DEEP_MODES))
    if not deep.any():
        return FULL_DEPTH
    brightest = _brightest(peaks[deep])
    if brightest <= 1 and (modes[deep] == "F").all():
        return "unit"
    return next(
        (depth for depth in DEPTHS if brightest <= (1 << depth) - 1),
        min(32, int(brightest).bit_length()),
    )


def why_depth_is_doubtful(peaks: npt.NDArray[np.floating[Any]], modes: npt.NDArray[np.str_]) -> str:
    """Why the depth of a set cannot be told from what its pictures are like; empty if it can.

    Args:
        peaks: As `choose_depth` takes them.
        modes: The same.
    """
    floats = modes == "F"
    if not floats.any():
        return ""
    if np.isin(modes, sorted(DEEP_MODES - {"F"})).any():
        return "some greys are floats and some are integers of more than 8 bits; write them in one kind, or "
    brightest = _brightest(peaks[floats])
    if DOUBTFUL_WHITES[0] < brightest < DOUBTFUL_WHITES[1]:
        return f"greys are floats up to {brightest:.3g}, so white may be 1 or more; "
    return ""


def _brightest(peaks: npt.NDArray[np.floating[Any]]) -> float:
    ordered = np.sort(peaks)
    return float(ordered[len(ordered) - 1 - len(ordered) // HOT_PICTURES])
