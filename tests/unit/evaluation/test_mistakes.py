"""What a classifier takes for what, and where it looked."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imgrec.evaluation.costs import time_in_turns
from imgrec.evaluation.mistakes import most_confused, occlusion
from imgrec.evaluation.report_pictures import pareto
from imgrec.training.throughput import multiply_adds
from tests.unit.evaluation.made import answers_of


class Cornered:
    """Sure of class 1 as far as the corner at the top left is bright, whatever else there is."""

    def probabilities(self, images: Tensor) -> Tensor:
        share = images[:, :, :7, :7].float().mean(dim=(1, 2, 3)) / 255
        return torch.stack([1 - share, share], dim=1)


@pytest.mark.parametrize("shape", [(28, 28, 1), (49, 35, 3)])
def test_what_it_looked_at_is_where_it_looks(shape: tuple[int, int, int]) -> None:
    """Covered elsewhere, the picture says the same."""
    pixels = np.full(shape, 40, dtype=np.uint8)
    pixels[:7, :7] = 250
    heat = occlusion(Cornered(), pixels, 1)  # type: ignore[arg-type]

    assert heat.shape == shape[:2]
    assert heat[:4, :4].min() > 0.1
    assert abs(heat[20:, 20:]).max() < 1e-6


def test_the_most_confused_pairs_come_first() -> None:
    """With their share of the true class."""
    labels = [0] * 10 + [1] * 20 + [2] * 5
    said = [0] * 8 + [1] * 2 + [1] * 15 + [2] * 5 + [2] * 5
    pairs = most_confused(answers_of(labels, said, 3))

    assert [(one.true, one.predicted, one.count) for one in pairs] == [
        ("class 1", "class 2", 5),
        ("class 0", "class 1", 2),
    ]
    assert pairs[0].share == 0.25
    assert not most_confused(answers_of(labels, labels, 3))


def test_no_other_model_beats_those_on_the_front() -> None:
    """The cheapest, and from there on whatever is better."""
    points = [(3.0, 0.9), (1.0, 0.7), (2.0, 0.6), (1.0, 0.8), (4.0, 0.9), (9.0, 0.95)]

    assert pareto(points) == [(1.0, 0.8), (3.0, 0.9), (9.0, 0.95)]


def test_multiply_adds_are_those_of_the_layers() -> None:
    """A layer of 64 inputs and 10 outputs multiplies 640 times."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    assert multiply_adds(model, (8, 8, 1)) == 640


def test_each_model_has_its_own_time() -> None:
    """In turns, whatever the number of pictures at hand."""
    images = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    timed = time_in_turns([Cornered(), Cornered()], [images, images])  # type: ignore[list-item]

    assert len(timed) == 2
    assert all(milliseconds > 0 and rate > 1 for milliseconds, rate in timed)
