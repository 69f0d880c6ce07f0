"""A moving average of the weights, which is what is evaluated and kept.

torch's AveragedModel reads its counter from the device in every step; this one counts in Python.
Source: Polyak & Juditsky 1992; the warm-up of the decay as in Tan & Le 2019 (EfficientNet).
"""

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """decay * average + (1 - decay) * weights after every step; early on with a smaller decay."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0
        self._averages, self._averaged = _floating(self.model), _floating(model)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights and buffers as they are now."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        torch._foreach_lerp_(self._averages, self._averaged, 1 - decay)


def _floating(model: nn.Module) -> list[Tensor]:
    # Counters such as BatchNorm's num_batches_tracked are no weights.
    return [t.detach() for t in model.state_dict(keep_vars=True).values() if t.is_floating_point()]
