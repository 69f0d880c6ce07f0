"""The moving average of the weights."""

import torch
from torch import nn

from imgrec.training.ema import MovingAverage


def test_the_moving_average_starts_fast_and_counts_buffers() -> None:
    """Early weights must not linger, and BatchNorm's statistics are part of the model."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = MovingAverage(model, decay=0.999)
    with torch.no_grad():
        for tensor in (model[0].weight, model[1].running_mean):
            tensor.fill_(5.0)
    for _ in range(100):
        average.update()

    assert (average.model[0].weight - 5).abs().max() < 0.01
    assert (average.model[1].running_mean - 5).abs().max() < 0.01
