"""Every filter."""

import pytest

from imgrec.config import Filter
from imgrec.config.filters import (
    Bilateral,
    Clahe,
    Equalize,
    Gaussian,
    Grey,
    Median,
    NonLocalMeans,
    Unsharp,
)

EVERY: tuple[Filter, ...] = (
    Gaussian(),
    Median(),
    Bilateral(),
    NonLocalMeans(size=5),
    Unsharp(),
    Equalize(),
    Clahe(tiles=1),
    Grey(),
)


each = pytest.mark.parametrize("one", EVERY, ids=lambda one: one.filter)
