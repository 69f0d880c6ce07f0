"""What was taken for what, for a person to verify at a glance."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source was understood.

    Attributes:
        layout: What it was taken for.
        labels: What says the class of a picture.
        splits: What was taken for each split; empty where none is given.
        ignored: What was left alone, by what it is, with how many there are.
        notes: What is odd, a line each.
    """

    layout: str
    labels: str
    splits: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        splits = ", ".join(f"{split} is {place}" for split, place in self.splits.items())
        ignored = ", ".join(f"{what} ({count:,})" for what, count in self.ignored.items())
        return [
            f"{self.layout}; the class is {self.labels}" + (f"; {splits}" if splits else ""),
            *([f"left alone: {ignored}"] if ignored else []),
            *self.notes,
        ]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Reading":
        """From what `as_json` gave."""
        return cls(**{**told, "notes": tuple(told["notes"])})
