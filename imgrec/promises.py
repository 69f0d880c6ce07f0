"""What a classifier may promise of its answers, as its card states it."""

from pydantic import BaseModel, ConfigDict


class PredictionSets(BaseModel):
    """How sets of classes are made that hold the true one in a stated share of all cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coverage: float
    """The share, of pictures of the kind that the data are."""
    thresholds: tuple[float, ...]
    """K numbers: a class is in the set where its probability is not below its own."""
    by_class: bool
    """Promised for the pictures of each class, and not only for all together."""
    pictures: int
    """That it was fitted on."""


class Abstention(BaseModel):
    """When a classifier says that it is not sure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    below: float
    """Where the probability of its label is below this."""
    precision: float
    """Share of right ones among its other answers, promised with 95 % confidence."""
    pictures: int
    """That it was fitted on."""
