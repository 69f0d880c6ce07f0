"""Scores from a confusion matrix that is counted where the logits are.

Nothing is copied from the device until `scores` is asked for, and several workers add their
counts up, so every picture counts exactly once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

MONITOR = "val/macro_f1"
"""What the best epoch, the best trial and the champion are chosen by."""
KEPT = "val_best"
"""Before the validation scores of the epoch whose weights are kept, in the metrics of a model."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How well a split was recognized.

    Attributes:
        loss: Mean cross-entropy in nats.
        accuracy: Share of pictures recognized.
        macro_f1: Mean over classes of the harmonic mean of precision and recall; classes that
            neither occur nor are predicted do not count.
        balanced_accuracy: Mean over the occurring classes of their recall.
        worst_recall: The lowest recall of an occurring class.
    """

    loss: float
    accuracy: float
    macro_f1: float
    balanced_accuracy: float
    worst_recall: float

    def as_metrics(self, split: str) -> dict[str, float]:
        """`{"val/loss": ..., "val/accuracy": ..., ...}`."""
        return {f"{split}/{name}": value for name, value in asdict(self).items()}


class Rank(NamedTuple):
    """How good an epoch of a fit is beside others: the larger, the better.

    The one definition of the score of a fit: what is kept, what a trial is told and shown by, what a search
    chooses. An epoch validated at a higher resolution always replaces one at a lower. Of two with the same
    score the one with the lower loss is better: small splits tie often.

    Attributes:
        share: Of their side that the pictures had that judged it.
        macro_f1: On the validation split.
        negative_loss: On the validation split.
    """

    share: float
    macro_f1: float
    negative_loss: float = 0.0


def scores_from(metrics: Mapping[str, float], split: str) -> Scores:
    """What `Scores.as_metrics` wrote."""
    return Scores(**{field.name: metrics[f"{split}/{field.name}"] for field in fields(Scores)})


class Meter:
    """Counts predictions and sums losses over batches, and over workers at the end."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self._confusion = torch.zeros(num_classes**2, dtype=torch.int64, device=device)
        # A Mac's GPU has no float64.
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._loss = torch.zeros((), dtype=wide, device=device)

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            logits: (B, K).
            labels: (B,) in [0, K).
            loss: Mean loss of the batch where it is known already; else the cross-entropy.
        """
        if loss is None:
            loss = F.cross_entropy(logits.float(), labels)
        self._loss += loss.detach() * len(labels)
        cells = labels * self.num_classes + logits.argmax(dim=1)
        self._confusion.scatter_add_(0, cells, torch.ones_like(cells))

    def reduce(self) -> None:
        """Add up what all workers counted; call it once, on all of them."""
        if dist.is_initialized():
            dist.all_reduce(self._confusion)
            dist.all_reduce(self._loss)

    @property
    def confusion(self) -> Tensor:
        """(K, K) int64 on the CPU: rows are the true classes, columns the predicted ones."""
        return self._confusion.view(self.num_classes, -1).cpu()

    def scores(self) -> Scores:
        """The scores of everything counted so far."""
        return confusion_scores(self.confusion, float(self._loss))


def confusion_scores(confusion: Tensor, loss_sum: float) -> Scores:
    """Scores of a confusion matrix (K, K) of true by predicted, as scikit-learn defines them."""
    counts = confusion.double()
    hits, true, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    total = true.sum().clamp(min=1)
    seen = true > 0
    f1 = 2 * hits / (true + predicted).clamp(min=1)
    recall = (hits / true.clamp(min=1))[seen]
    return Scores(
        loss=loss_sum / float(total),
        accuracy=float(hits.sum() / total),
        macro_f1=float(f1[seen | (predicted > 0)].mean()),
        balanced_accuracy=float(recall.mean()),
        worst_recall=float(recall.min()),
    )
