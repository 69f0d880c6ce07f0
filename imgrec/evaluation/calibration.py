"""How sure a classifier may be of itself."""

import math

import torch.nn.functional as F  # noqa: N812
from scipy.optimize import minimize_scalar
from torch import Tensor

LEAST, MOST = 0.05, 20.0


def fit_temperature(logits: Tensor, labels: Tensor, log_priors: Tensor | None = None) -> float:
    """The temperature with the lowest log loss.

    A split without a single error would ask for a temperature of zero, and so for certainty about
    pictures that nobody has seen. The targets are therefore as sure as N pictures can make one: one
    error is assumed in N + 2.

    Args:
        logits: Of the validation split, (N, K).
        labels: (N,).
        log_priors: Added after the temperature, (K,), where training has set them aside.

    Returns:
        A number in [0.05, 20] to divide logits by. Which class is chosen does not change.

    Sources: Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599); the
    targets as in Platt 1999, "Probabilistic Outputs for Support Vector Machines".
    """
    logits = logits.double()
    count, classes = logits.shape
    # What label smoothing gives away falls to the true class too, a K-th of it.
    doubt = min(1.0, classes / (classes - 1) / (count + 2))

    def log_loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        if log_priors is not None:
            scaled = scaled + log_priors
        return float(F.cross_entropy(scaled, labels, label_smoothing=doubt))

    bounds = (math.log(LEAST), math.log(MOST))
    return math.exp(minimize_scalar(log_loss, bounds=bounds, method="bounded").x)
