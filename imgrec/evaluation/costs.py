"""What a classifier takes: parameters, operations, disk, and time on this machine."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from imgrec.classifier import Classifier
from imgrec.models import count_parameters
from imgrec.training.throughput import gpu_name, multiply_adds

ROUNDS, SECONDS = 7, 0.4
BATCH = 64


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one classifier.

    Attributes:
        parameters: Numbers that it has learned.
        multiply_adds: Of its network, for one picture.
        bytes: Of its weights on disk.
        device: That it was timed on, for people.
        milliseconds: From the pixels of one picture to its probabilities, the median.
        pictures_per_second: In batches of BATCH.
        fit_seconds: That training took.
        device_seconds: The same, of all workers together.
    """

    parameters: int
    multiply_adds: int
    bytes: int
    device: str
    milliseconds: float
    pictures_per_second: float
    fit_seconds: float
    device_seconds: float

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Costs":
        """From what `as_json` gave, read from a file."""
        return cls(**told)


def time_in_turns(
    classifiers: Sequence[Classifier], images: Sequence[Tensor]
) -> list[tuple[float, float]]:
    """Milliseconds of one picture, and pictures a second in a batch, of each classifier.

    They take turns, so that whatever else the machine does meets all of them; medians are told. These figures are for
    people and for limits that a person has set: they decide nothing else.

    Args:
        classifiers: Which.
        images: For each some pictures as they are stored, (B, C, H, W) uint8.
    """
    batches = [_repeated(some) for some in images]
    singles: list[list[float]] = [[] for _ in classifiers]
    wholes: list[list[float]] = [[] for _ in classifiers]
    for turn in range(ROUNDS + 1):
        for number, (one, batch) in enumerate(zip(classifiers, batches, strict=True)):
            began = time.perf_counter()
            while True:
                single = _seconds(one, batch[:1])
                if turn:  # the first warms up
                    singles[number].append(single)
                if time.perf_counter() - began > SECONDS / ROUNDS / 2:
                    break
            # A batch of a slow network is no larger than a few turns' time.
            count = max(1, min(BATCH, round(SECONDS / max(single, 1e-6))))
            took = _seconds(one, batch[:count]) / count
            if turn:
                wholes[number].append(took)
    return [
        (1000 * statistics.median(single), 1 / statistics.median(whole))
        for single, whole in zip(singles, wholes, strict=True)
    ]


def costs_of(
    classifier: Classifier, size: int, timed: tuple[float, float], fit_seconds: float, workers: int
) -> Costs:
    """All of it.

    Args:
        classifier: Which.
        size: Bytes of its weights.
        timed: Of `time_in_turns`.
        fit_seconds: That training took.
        workers: That trained it.
    """
    return Costs(
        parameters=count_parameters(classifier.model),
        multiply_adds=multiply_adds(classifier.model, classifier.card.image_shape),
        bytes=size,
        device=gpu_name(classifier.device) or f"CPU, {torch.get_num_threads()} threads",
        milliseconds=timed[0],
        pictures_per_second=timed[1],
        fit_seconds=fit_seconds,
        device_seconds=fit_seconds * workers,
    )


def _repeated(images: Tensor) -> Tensor:
    return images.repeat(-(-BATCH // len(images)), 1, 1, 1)[:BATCH]


def _seconds(classifier: Classifier, images: Tensor) -> float:
    began = time.perf_counter()
    classifier.probabilities(images)  # on the CPU, so a GPU has ended
    return time.perf_counter() - began
