"""What the server answers, as its OpenAPI document describes it."""

from typing import Any

from pydantic import BaseModel

from imgrec.classifier import Prediction
from imgrec.errors import DecodeError
from imgrec.serving.models import ServedModel


class Predicted(BaseModel):
    """What a model says of a picture; of one that cannot be read only `error`, where others of the request can be."""

    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    abstained: bool | None = None
    """The model is not sure: the label is its guess."""
    possible: list[str] | None = None
    """Classes of which one is right in the share of all cases that the model promises; empty where it promises nothing."""
    error: str | None = None


class Predictions(BaseModel):
    """Of the pictures of a request, in their order."""

    predictions: list[Predicted]
    model: str
    version: str


class Explained(BaseModel):
    """What a model looked at, as PNG pictures in data URLs."""

    label: str
    probability: float
    shown: str
    """The picture as the model has it."""
    looked_at: str
    """The same; what spoke for the label stands out."""
    model: str
    version: str


class ModelInfo(BaseModel):
    """A model that answers."""

    name: str
    version: str
    arch: str
    class_names: list[str]
    height: int
    width: int
    channels: int
    coverage: float | None
    """Of `possible`; null where nothing is promised."""
    precision: float | None
    """Of the answers in which it is sure; null where nothing is promised."""
    facts: dict[str, str]
    """Where it comes from, for people."""


class ModelList(BaseModel):
    """All of a server."""

    models: list[ModelInfo]


class State(BaseModel):
    """Whether the server is well."""

    status: str


class Refused(BaseModel):
    """Why there is no answer."""

    error: str


def info_of(model: ServedModel) -> ModelInfo:
    """What the card and the source tell of a model."""
    card = model.classifier.card
    height, width, channels = card.image_shape
    return ModelInfo(
        name=model.name,
        version=model.version,
        arch=card.model.arch,
        class_names=list(card.class_names),
        height=height,
        width=width,
        channels=channels,
        coverage=card.sets and card.sets.coverage,
        precision=card.abstention and card.abstention.precision,
        facts=dict(model.facts),
    )


def as_row(answer: Prediction | DecodeError) -> dict[str, Any]:
    """A `Predicted`, as JSON."""
    if isinstance(answer, DecodeError):
        return {"error": str(answer)}
    return answer.as_json()
