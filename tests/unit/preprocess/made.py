"""Every filter."""

from typing import cast

import pytest

from imgrec.config import FILTERS, Filter

SMALL: dict[str, dict[str, int]] = {"non_local_means": {"size": 5}, "clahe": {"tiles": 1}}
"""For the smallest pictures of these tests."""
EVERY = tuple(cast("Filter", kind(**SMALL.get(name, {}))) for name, kind in FILTERS.items())


each = pytest.mark.parametrize("one", EVERY, ids=lambda one: one.filter)
