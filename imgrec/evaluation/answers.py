"""What a model said of each picture of a split: enough to compare models without running them again."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imgrec.errors import ClassifierError

Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers, a row for each picture.

    Attributes:
        class_names: K names.
        ids: What the source calls each picture, (N,).
        pictures: Digests of their contents, (N,) V16.
        labels: What they show, (N,), numbers of classes.
        predicted: What the model said, (N,).
        confidence: The probability that it gave to that, (N,).
        loss: What its probabilities cost, in nats, (N,).
    """

    class_names: tuple[str, ...]
    ids: npt.NDArray[np.str_]
    pictures: npt.NDArray[np.void]
    labels: Labels
    predicted: Labels
    confidence: Floats
    loss: Floats

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which it recognized, (N,)."""
        return self.predicted == self.labels

    def rows(self, rows: Labels) -> "Answers":
        """What it said of some of the pictures."""
        arrays = (getattr(self, key)[rows] for key in self.__slots__[1:])
        return Answers(self.class_names, *arrays)

    def digest(self) -> str:
        """A short hash of which pictures of which classes these are, in any order."""
        names = [name.encode() for name in self.class_names]
        rows = zip(self.labels.tolist(), self.pictures, strict=True)
        lines = sorted(names[label] + b"\0" + bytes(picture) for label, picture in rows)
        return hashlib.sha256(b"".join(lines)).hexdigest()[:16]

    def save(self, file: Path) -> None:
        """As an .npz file, without pickle."""
        np.savez_compressed(
            file,
            class_names=np.array(self.class_names),
            ids=self.ids,
            pictures=self.pictures,
            labels=self.labels,
            predicted=self.predicted,
            confidence=self.confidence,
            loss=self.loss,
        )

    @classmethod
    def load(cls, file: Path) -> "Answers":
        """What `save` wrote.

        Raises:
            ClassifierError: it is not there, or broken.
        """
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
                names = tuple(str(name) for name in kept["class_names"])
                arrays = (kept[key] for key in cls.__slots__[1:])
                return cls(names, *arrays)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            msg = f"{file}: no answers of a model ({type(error).__name__})"
            raise ClassifierError(msg) from error


def refuse_other_pictures(answers: Sequence[Answers]) -> None:
    """Raise ValueError where models were not asked about the same pictures in the same order."""
    first = answers[0]
    for other in answers[1:]:
        if not (
            first.class_names == other.class_names
            and np.array_equal(first.pictures, other.pictures)
            and np.array_equal(first.labels, other.labels)
        ):
            msg = "answers about other pictures cannot be compared"
            raise ValueError(msg)
