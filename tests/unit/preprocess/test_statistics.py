"""Mean and deviation of the training pictures."""

import numpy as np
import torch

from imgrec.config import Filter
from imgrec.data.store import Store
from imgrec.preprocess.recipe import Recipe
from imgrec.preprocess.statistics import channel_statistics
from imgrec.preprocess.view import View
from tests.unit.preprocess.made import each


@each
def test_the_statistics_are_those_of_filtered_pictures(one: Filter, digits: Store) -> None:
    """Equalized pictures are brighter; what the model sees must have mean 0 all the same."""
    rows = np.arange(1000)
    recipe = Recipe(channel_statistics(digits, rows, View((8, 8)), [one]), [one]).eval()
    seen = recipe(torch.from_numpy(digits.images[rows]).permute(0, 3, 1, 2))

    assert abs(seen.mean()) < 1e-3
    assert abs(seen.std() - 1) < 1e-2
