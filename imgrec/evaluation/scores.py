"""The final scores of a classifier, on pictures that chose nothing."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from imgrec.classifier import Classifier
from imgrec.data.loader import Shard, evaluation_batches
from imgrec.data.splits import Indices
from imgrec.data.store import Store
from imgrec.training.metrics import Scores, confusion_scores

BATCH = 512


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a classifier did on a split.

    Attributes:
        scores: `loss` is the log loss of the probabilities that are served.
        confusion: (K, K) int64, true classes by predicted ones.
        class_names: K names.
    """

    scores: Scores
    confusion: Tensor
    class_names: tuple[str, ...]

    def per_class(self) -> list[tuple[str, int, float, float, float]]:
        """For each class its name, pictures, precision, recall and F1."""
        counts = self.confusion.double()
        hits, true, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        precision = hits / predicted.clamp(min=1)
        recall = hits / true.clamp(min=1)
        f1 = 2 * hits / (true + predicted).clamp(min=1)
        columns = zip(
            true.int().tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True
        )
        return [(name, *column) for name, column in zip(self.class_names, columns, strict=True)]


def evaluate_classifier(classifier: Classifier, store: Store, rows: Indices) -> Evaluation:
    """Score a classifier exactly as it will be served: in fp32, with its temperature."""
    logits, labels = split_logits(classifier, store, rows)
    num_classes = len(classifier.card.class_names)
    cells = labels * num_classes + logits.argmax(dim=1)
    confusion = torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
    loss = F.cross_entropy(logits / classifier.card.temperature, labels, reduction="sum")
    return Evaluation(
        scores=confusion_scores(confusion, float(loss)),
        confusion=confusion,
        class_names=classifier.card.class_names,
    )


def split_logits(classifier: Classifier, store: Store, rows: Indices) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and labels (N,) of a split."""
    batches = evaluation_batches(
        store, rows, batch_size=BATCH, shard=Shard(), device=torch.device("cpu")
    )
    parts = [(classifier.logits(images), labels) for images, labels in batches]
    return torch.cat([logits for logits, _ in parts]), torch.cat([labels for _, labels in parts])
