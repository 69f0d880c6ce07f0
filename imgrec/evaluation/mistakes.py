"""What a classifier gets wrong: which classes it takes for which, and its worst mistakes with what it looked at."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from imgrec.classifier import Classifier
from imgrec.data.store import Store
from imgrec.evaluation.answers import Answers
from imgrec.evaluation.data_pictures import as_data_url

MOST_PAIRS, MOST_MISTAKES = 8, 6
SHARE_OF_TRAINING = 1 / 300
"""Mistakes that are looked into, for each training picture and pass: each costs about fifty looks, of which a step of
training takes three."""
CELLS = 7
"""Of a picture's side, that are covered one after the other."""
WINDOW = 2
TILE = 128
HEAT = np.array([217, 72, 15])
"""The colour of what speaks for the answer."""


@dataclass(frozen=True, slots=True)
class Confused:
    """Two classes of which one is taken for the other."""

    true: str
    predicted: str
    count: int
    share: float
    """Of the pictures of the true class."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A picture that was recognized wrongly, with much confidence.

    Attributes:
        picture: What the source calls it.
        true: Its class.
        predicted: What was said.
        confidence: In that.
        shown: The picture, as a data URL.
        looked_at: The same; what spoke for the answer stands out, by its colour.
    """

    picture: str
    true: str
    predicted: str
    confidence: float
    shown: str
    looked_at: str

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Mistake":
        """From what `as_json` gave."""
        return cls(**told)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a classifier says of a picture, and what it looked at.

    Attributes:
        label: What it says.
        probability: Of that.
        shown: The picture, as a data URL.
        looked_at: The same; what spoke for the label stands out, by its colour.
    """

    label: str
    probability: float
    shown: str
    looked_at: str


def choose_mistakes(trained: int, passes: float) -> int:
    """How many mistakes are looked into: so many that it takes about a twentieth of training, by operations; one at least.

    Args:
        trained: Training pictures.
        passes: Passes over them, in units of full-size pictures (`FitSpec.passes`).
    """
    return max(1, min(MOST_MISTAKES, round(trained * passes * SHARE_OF_TRAINING)))


def most_confused(answers: Answers) -> list[Confused]:
    """The pairs of classes with the most mistakes, at most MOST_PAIRS."""
    classes = len(answers.class_names)
    wrong = ~answers.right
    cells = answers.labels[wrong] * classes + answers.predicted[wrong]
    counts = np.bincount(cells, minlength=classes**2)
    true = np.bincount(answers.labels, minlength=classes)
    order = np.argsort(-counts, kind="stable")[:MOST_PAIRS]
    return [
        Confused(
            answers.class_names[cell // classes],
            answers.class_names[cell % classes],
            int(counts[cell]),
            float(counts[cell] / true[cell // classes]),
        )
        for cell in order.tolist()
        if counts[cell]
    ]


def worst_mistakes(
    classifier: Classifier,
    answers: Answers,
    store: Store,
    rows: npt.NDArray[np.int64],
    most: int,
) -> list[Mistake]:
    """The mistakes that cost the most.

    Args:
        classifier: Whose they are.
        answers: What it said of the test pictures.
        store: Where they lie.
        rows: Theirs in the store, in the order of the answers.
        most: How many at most.
    """
    wrong = np.flatnonzero(~answers.right)
    worst = wrong[np.argsort(-answers.loss[wrong], kind="stable")][:most]
    mistakes = []
    for place in worst.tolist():
        pixels = store.images[rows[place]]
        shown, looked_at = _pictures(classifier, pixels, int(answers.predicted[place]))
        mistakes.append(
            Mistake(
                picture=str(answers.ids[place]),
                true=answers.class_names[answers.labels[place]],
                predicted=answers.class_names[answers.predicted[place]],
                confidence=float(answers.confidence[place]),
                shown=shown,
                looked_at=looked_at,
            )
        )
    return mistakes


def look_at(classifier: Classifier, pixels: npt.NDArray[np.uint8]) -> Seen:
    """What a classifier says of a decoded picture, (H, W, C), and what it looked at."""
    (said,) = classifier.predictions(classifier.logits_of([pixels]))
    label = classifier.card.class_names.index(said.label)
    return Seen(said.label, said.probability, *_pictures(classifier, pixels, label))


def _pictures(classifier: Classifier, pixels: npt.NDArray[np.uint8], label: int) -> tuple[str, str]:
    """The picture, and the same coloured where it spoke for a class."""
    heat = occlusion(classifier, pixels, label)
    return as_data_url(_tile(pixels)), as_data_url(_tile(_overlaid(pixels, heat)))


def occlusion(
    classifier: Classifier, pixels: npt.NDArray[np.uint8], label: int
) -> npt.NDArray[np.float64]:
    """How much less sure a classifier is of a class where a part of the picture is covered, (H, W).

    Parts are covered with the picture's mean colour. It works for every architecture, for it asks nothing but what the
    classifier says.

    Source: Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks" (arXiv:1311.2901).

    Args:
        classifier: Which.
        pixels: As stored, (H, W, C) uint8.
        label: Number of the class.
    """
    from captum.attr import Occlusion  # noqa: PLC0415 - only at the end of a run

    images = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float()
    channels, height, width = images.shape[1:]
    steps = max(1, round(height / CELLS)), max(1, round(width / CELLS))

    def sure(some: Tensor) -> Tensor:
        return classifier.probabilities(some.round().to(torch.uint8))

    found = Occlusion(sure).attribute(
        images,
        sliding_window_shapes=(
            channels,
            min(height, WINDOW * steps[0]),
            min(width, WINDOW * steps[1]),
        ),
        strides=(channels, *steps),
        baselines=images.mean(dim=(2, 3), keepdim=True).expand_as(images),
        target=label,
        perturbations_per_eval=16,
    )
    heat: npt.NDArray[np.float64] = found[0].mean(dim=0).double().numpy()
    return heat


def _overlaid(
    pixels: npt.NDArray[np.uint8], heat: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """The picture in grey, coloured where it spoke for the answer."""
    most = max(float(heat.max()), 1e-9)
    share = np.clip(heat / most, 0, 1)[..., None] * 0.75
    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return ((1 - share) * grey + share * HEAT).round().astype(np.uint8)


def _tile(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    scale = TILE / max(image.size)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), how)
