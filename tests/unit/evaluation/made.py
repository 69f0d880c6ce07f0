"""Models that answer as they are told to."""

from collections.abc import Sequence

import numpy as np

from imgrec.evaluation.answers import Answers
from imgrec.evaluation.contest import Contender


def answers_of(labels: Sequence[int], predicted: Sequence[int], classes: int) -> Answers:
    """Of pictures with digests of their own, as sure as can be."""
    pictures = np.array([b"%016d" % row for row in range(len(labels))], dtype="V16")
    true, said = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    names = tuple(f"class {number}" for number in range(classes))
    ids = np.array([f"{row}.png" for row in range(len(labels))])
    return Answers(names, ids, pictures, true, said, np.ones(len(true)), np.zeros(len(true)))


def contender(name: str, *answers: Answers, begins_with: str = "random weights") -> Contender:
    return Contender(name, begins_with, answers)


def drawn(
    rng: np.random.Generator, total: int, classes: int, rates: Sequence[float]
) -> list[Answers]:
    """Models that are right at these rates, on the same random pictures, each by itself."""
    labels = rng.integers(0, classes, total)
    wrong = (labels + rng.integers(1, classes, total)) % classes
    return [
        answers_of(labels, np.where(rng.random(total) < rate, labels, wrong), classes)
        for rate in rates
    ]
