"""The loss, with what is done in it for rare classes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from imgrec.config import Imbalance

LEAST_SAMPLES = 1000
GAMMA = 2.0


class Loss(nn.Module):
    """Cross-entropy of logits (B, K) against labels (B,) or target probabilities (B, K).

    The mean is over the batch, whatever its pictures weigh: a sum over several workers is then
    that of the whole batch.
    """

    def __init__(
        self, imbalance: Imbalance, class_counts: Sequence[int], label_smoothing: float
    ) -> None:
        super().__init__()
        assert imbalance != "auto", "TrainConfig.resolved decides"
        self.num_classes = len(class_counts)
        self.label_smoothing = label_smoothing
        self.focal = imbalance == "focal"
        counts = torch.tensor(class_counts)
        self.weights = self._constant(class_weights(counts) if imbalance == "weights" else None)
        self.margins = self._constant(
            log_priors(counts) if imbalance == "logit_adjustment" else None
        )

    def _constant(self, values: Tensor | None) -> nn.Buffer | None:
        return None if values is None else nn.Buffer(values, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, K) and labels (B,) int64 or probabilities (B, K) to a scalar."""
        if self.margins is not None:
            return self._with_margins(logits, targets)
        if not self.focal and self.weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        losses = F.cross_entropy(
            logits, targets, label_smoothing=self.label_smoothing, reduction="none"
        )  # (B,)
        if self.weights is not None:
            return (losses * _expected(self.weights.expand_as(logits), targets)).mean()
        # Lin et al. 2017, "Focal Loss for Dense Object Detection" (arXiv:1708.02002).
        recognized = _expected(logits.softmax(dim=1), targets)
        return (losses * (1 - recognized) ** GAMMA).mean()

    def _with_margins(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logit adjustment, with label smoothing that follows the classes' shares.

        Spread evenly, it would ask for more of a rare class than its margin takes away, and the bare
        logits would see rare classes everywhere.
        """
        assert self.margins is not None
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        targets = torch.lerp(targets, self.margins.exp().expand_as(targets), self.label_smoothing)
        return F.cross_entropy(logits + self.margins, targets)


def class_weights(class_counts: Tensor, *, beta: float | None = None) -> Tensor:
    """Weights that lift rare classes, by the effective number of samples.

    A class with n images gets weight (1 - beta) / (1 - beta**n), scaled so that the mean over the
    training pictures is 1 and the learning rate keeps its meaning.

    Args:
        class_counts: Training pictures of each class, (K,).
        beta: 0 means equal weights; towards 1 means 1/n. By default 1 - 1/N with N a tenth
            of the largest class's pictures, at least 1,000: 0.999 was better than 0.9998 for a
            largest class of 5,000 (docs/results.md), and would make all of a large set's equal.

    Returns:
        (K,) float32. A class without pictures gets weight 0.

    Source: Cui et al. 2019, "Class-Balanced Loss" (arXiv:1901.05555).
    """
    counts = class_counts.double()
    if beta is None:
        beta = 1 - 1 / max(LEAST_SAMPLES, int(class_counts.max()) // 10)
    weights = torch.where(counts > 0, (1 - beta) / (1 - beta ** counts.clamp(min=1)), 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def log_priors(class_counts: Tensor) -> Tensor:
    """The logarithm of each class's share of the training pictures, (K,) float32.

    Added to the logits in training only, it makes the bare logits those of a world in which all
    classes are equally frequent. A class without pictures counts as one of half a picture.

    Source: Menon et al. 2020, "Long-tail learning via logit adjustment" (arXiv:2007.07314),
    equation 10, with tau = 1.
    """
    counts = class_counts.double().clamp(min=0.5)
    return (counts / counts.sum()).log().float()


def set_aside(imbalance: Imbalance, class_counts: Sequence[int]) -> Tensor | None:
    """A correction (K,) that is added to logits so that their softmax follows the data's class frequencies.

    A perfect model of the loss says of a picture x, up to a constant of x: under `logit_adjustment` and the
    `sampler` log p(x | class), in a world of equal classes; under `weights` log p(class | x) and the
    logarithm of the class's weight. None where its logits are those of the data already; `focal` makes
    probabilities flatter, which the temperature mends.
    """
    counts = torch.tensor(class_counts)
    match imbalance:
        case "logit_adjustment" | "sampler":
            return log_priors(counts)
        case "weights":
            # A class without pictures has weight 0, and is never expected.
            return -class_weights(counts.clamp(min=1)).log()
        case _:
            return None


def _expected(values: Tensor, targets: Tensor) -> Tensor:
    """Of values (B, K): the one at each label (B,), or the mean under each target (B, K)."""
    if targets.ndim == 1:
        return values.gather(1, targets[:, None]).squeeze(1)
    return (values * targets).sum(dim=1)
