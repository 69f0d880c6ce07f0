"""Pictures whose label is probably wrong, by what a model says of them without having learned from them.

Source: Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels" (arXiv:1911.00068).
cleanlab, its authors' library, has a licence (AGPL) that imgrec does not bring.
"""

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

MOST = 1000
"""That are listed."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A picture that a person should look at.

    Attributes:
        picture: What the source calls it.
        split: That it is in.
        label: What the source says.
        suggested: What the model says.
        label_probability: That the model gives to the label.
        suggested_probability: That it gives to its own.
    """

    picture: str
    split: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float

    @property
    def margin(self) -> float:
        """How much surer the model is of its own."""
        return self.suggested_probability - self.label_probability


def find_suspects(
    probabilities: Tensor,
    labels: Tensor,
    pictures: Sequence[str],
    split: str,
    class_names: Sequence[str],
) -> list[Suspect]:
    """The pictures that count for another class than their own.

    A picture counts for a class where its probability is at least the mean of those that the pictures of the class have
    for it: so a class that the model is rarely sure of has a lower bar.

    Args:
        probabilities: Of pictures that the model has not learned from, (N, K).
        labels: Theirs, (N,).
        pictures: What the source calls them, N names.
        split: That they are in.
        class_names: K names.
    """
    probabilities = probabilities.double()
    classes = probabilities.shape[1]
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    own = probabilities.gather(1, labels[:, None]).squeeze(1)
    bars = torch.bincount(labels, own, minlength=classes) / counts
    bars[torch.bincount(labels, minlength=classes) == 0] = (
        torch.inf
    )  # of such a class nothing is known
    confident = probabilities >= bars
    counted = torch.where(confident, probabilities, -1.0).argmax(dim=1)
    suspicious = confident.any(dim=1) & (counted != labels)
    return [
        Suspect(
            picture=pictures[row],
            split=split,
            label=class_names[int(labels[row])],
            suggested=class_names[int(counted[row])],
            label_probability=round(float(own[row]), 6),
            suggested_probability=round(float(probabilities[row, counted[row]]), 6),
        )
        for row in suspicious.nonzero().flatten().tolist()
        # Whoever is surer of the label itself has no reason to doubt it.
        if probabilities[row, counted[row]] > own[row]
    ]


def most_suspicious(suspects: Sequence[Suspect]) -> list[Suspect]:
    """The most suspicious first, at most so many as a person will look at."""
    return sorted(suspects, key=lambda one: (-one.margin, one.split, one.picture))[:MOST]


def write_suspects(suspects: Sequence[Suspect], file: Path) -> None:
    """As a table that a person can work through."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(field.name for field in fields(Suspect))
        rows.writerows(astuple(one) for one in suspects)


def read_suspects(file: Path) -> list[Suspect]:
    """What `write_suspects` wrote."""
    with file.open(encoding="utf-8", newline="") as opened:
        return [
            Suspect(
                picture=row["picture"],
                split=row["split"],
                label=row["label"],
                suggested=row["suggested"],
                label_probability=float(row["label_probability"]),
                suggested_probability=float(row["suggested_probability"]),
            )
            for row in csv.DictReader(opened)
        ]
