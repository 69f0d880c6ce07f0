"""What a search may change: for each setting a range or a list of choices."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from imgrec.config.architectures import ModelConfig
from imgrec.config.section import Section

Scalars = tuple[bool | int | float | str, ...]


class Dimension(Section):
    """One setting that a search changes.

    In TOML: `learning_rate = {low = 0.001, high = 0.1, log = true}`, or
    `hidden = {choices = [[64], [128, 64]]}`, for which `hidden = [[64], [128, 64]]` is short.
    """

    key: str
    """The setting, within its architecture: `train.learning_rate`."""
    low: int | float | None = None
    """Smallest value; with whole numbers at both ends only whole numbers are tried."""
    high: int | float | None = None
    """Largest value."""
    log: bool = False
    """Try orders of magnitude evenly, rather than values."""
    choices: Annotated[tuple[Any, ...], Field(strict=False)] = ()
    """The values to try."""
    when: dict[str, Scalars] = Field(default_factory=dict)
    """Search this only where other settings have one of these values:
    `{"train.optimizer" = "sgd"}`."""

    @field_validator("when", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {k: tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in value.items()}

    @field_validator("choices")
    @classmethod
    def _plain(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)

    @model_validator(mode="after")
    def _range_or_choices(self) -> Self:
        ends = [end for end in (self.low, self.high) if end is not None]
        if bool(self.choices) == bool(ends) or len(ends) == 1:
            msg = "give low and high, or choices"
            raise ValueError(msg)
        if ends and ends[0] >= ends[1]:
            msg = f"low = {ends[0]} must be below high = {ends[1]}"
            raise ValueError(msg)
        if self.log and (not ends or ends[0] <= 0):
            msg = "log needs a low above 0"
            raise ValueError(msg)
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that must all be allowed for every one to be: both ends, or all choices."""
        return self.choices or (self.low, self.high)

    def holds(self, value: object) -> bool:
        """Whether a search could come upon this value."""
        if self.choices:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        return isinstance(value, int | float) and self.low <= value <= self.high


def around(default: float, factor: float = 4.0) -> dict[str, Any]:
    """A range of orders of magnitude with the default in its middle."""
    return {"low": default / factor, "high": default * factor, "log": True}


def builtin_space(model: ModelConfig, train: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is searched where the user does not say: what papers tune, around our defaults.

    Args:
        model: The architecture.
        train: Its training settings, whose values the ranges are laid around.
    """
    if model.is_pretrained:
        return {
            "train.learning_rate": around(train["learning_rate"]),
            "train.layer_decay": {"low": 0.01, "high": 1.0, "log": True},
            "train.weight_decay": around(train["weight_decay"] or 0.01),
            "train.label_smoothing": {"low": 0.0, "high": 0.2},
            "preprocess.crop_area": {"low": 0.2, "high": 1.0},
        }
    return {
        "train.learning_rate": around(train["learning_rate"]),
        "train.weight_decay": around(train["weight_decay"] or 0.01),
        "train.label_smoothing": {"low": 0.0, "high": 0.2},
        "preprocess.shift": {"low": 0.0, "high": 0.2},
        "preprocess.erase": {"low": 0.0, "high": 0.4},
        **model.space(),
    }
