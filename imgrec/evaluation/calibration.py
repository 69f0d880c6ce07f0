"""How sure a classifier may be of itself."""

import math

import torch.nn.functional as F  # noqa: N812
from scipy.optimize import minimize_scalar
from torch import Tensor

LEAST, MOST = 0.05, 20.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the lowest log loss.

    Bounded, because a split without a single error would ask for a temperature of zero.

    Args:
        logits: Of the validation split, (N, K).
        labels: (N,).

    Returns:
        A number in [0.05, 20] to divide logits by. Which class is chosen does not change.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
    """
    logits = logits.double()

    def log_loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), labels))

    bounds = (math.log(LEAST), math.log(MOST))
    return math.exp(minimize_scalar(log_loss, bounds=bounds, method="bounded").x)
