"""The final scores of a classifier, on pictures that chose nothing."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from imgrec.classifier import Classifier
from imgrec.data.decode import pictures_at_once
from imgrec.data.loader import Pictures, Shard, evaluation_batches
from imgrec.data.splits import Indices
from imgrec.data.store import Store
from imgrec.evaluation.answers import Answers
from imgrec.evaluation.trust import Trust, judge_trust
from imgrec.training.metrics import Scores, confusion_scores

MANY, FEW = 100, 20


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a classifier did on a split.

    Attributes:
        scores: `loss` is the log loss of the probabilities that are served.
        confusion: (K, K) int64, true classes by predicted ones.
        class_names: K names.
        trained: Training pictures of each class.
        answers: What it said of each picture.
        probabilities: That it gave, (N, K).
        trust: How far they hold.
    """

    scores: Scores
    confusion: Tensor
    class_names: tuple[str, ...]
    trained: tuple[int, ...]
    answers: Answers
    probabilities: Tensor
    trust: Trust

    def by_frequency(self) -> dict[str, float]:
        """Balanced accuracy of the classes with many, medium and few training pictures.

        Of kinds that there are: `many_shot_accuracy` and so on.

        Source of the borders: Liu et al. 2019, "Large-Scale Long-Tailed Recognition in an Open
        World" (arXiv:1904.05160).
        """
        counts = self.confusion.double()
        true = counts.sum(dim=1)
        recall = counts.diagonal() / true.clamp(min=1)
        trained = torch.tensor(self.trained)
        shots = {
            "many": trained > MANY,
            "medium": (trained >= FEW) & (trained <= MANY),
            "few": trained < FEW,
        }
        return {
            f"{name}_shot_accuracy": float(recall[mask & (true > 0)].mean())
            for name, mask in shots.items()
            if (mask & (true > 0)).any()
        }

    def per_class(self) -> list[tuple[str, int, int, float, float, float]]:
        """For each class its name, training and scored pictures, precision, recall and F1."""
        counts = self.confusion.double()
        hits, true, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        precision = hits / predicted.clamp(min=1)
        recall = hits / true.clamp(min=1)
        f1 = 2 * hits / (true + predicted).clamp(min=1)
        columns = zip(
            self.trained,
            true.int().tolist(),
            precision.tolist(),
            recall.tolist(),
            f1.tolist(),
            strict=True,
        )
        return [(name, *column) for name, column in zip(self.class_names, columns, strict=True)]


def evaluate_classifier(
    classifier: Classifier, store: Store, rows: Indices, trained: tuple[int, ...]
) -> Evaluation:
    """Score a classifier exactly as it will be served: in fp32, with its temperature and priors.

    Args:
        classifier: Whatever is to be scored.
        store: Where the pictures lie.
        rows: Which of them.
        trained: Training pictures of each class, K numbers.
    """
    logits, _ = split_logits(classifier, store, rows)
    return evaluate_logits(classifier, logits, store, rows, trained)


def evaluate_logits(
    classifier: Classifier, logits: Tensor, store: Store, rows: Indices, trained: tuple[int, ...]
) -> Evaluation:
    """The same where the logits (N, K) of these rows are known."""
    num_classes = len(classifier.card.class_names)
    labels = torch.from_numpy(store.labels[rows])
    predicted = logits.argmax(dim=1)
    cells = labels * num_classes + predicted
    confusion = torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
    calibrated = classifier.calibrated(logits).double()
    loss = F.cross_entropy(calibrated, labels, reduction="none")
    probabilities = torch.softmax(calibrated, dim=1)
    sure = probabilities.gather(1, predicted[:, None]).squeeze(1)
    return Evaluation(
        scores=confusion_scores(confusion, float(loss.sum())),
        confusion=confusion,
        class_names=classifier.card.class_names,
        trained=trained,
        answers=Answers(
            classifier.card.class_names,
            np.array(store.ids())[rows],
            store.looks()["digest"][rows],
            labels.numpy(),
            predicted.numpy(),
            sure.numpy(),
            loss.numpy(),
        ),
        probabilities=probabilities,
        trust=judge_trust(classifier, logits, labels),
    )


def split_logits(classifier: Classifier, store: Store, rows: Indices) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and labels (N,) of a split."""
    pictures = Pictures(store, torch.device("cpu"))
    batches = evaluation_batches(
        pictures,
        rows,
        batch_size=pictures_at_once(classifier.recipe.larger_of(store.image_shape)),
        shard=Shard(),
    )
    parts = [(classifier.logits(images), labels) for images, labels in batches]
    return torch.cat([logits for logits, _ in parts]), torch.cat([labels for _, labels in parts])
