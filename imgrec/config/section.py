"""What every section of the settings has in common."""

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Widths = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=16, strict=False)]


def _in_seconds(value: object) -> object:
    if not isinstance(value, str):
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    written = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", value.strip())
    if not written or not value.strip():
        msg = "write a time such as 90s, 10m or 1h30m"
        raise ValueError(msg)
    hours, minutes, seconds = (int(part or 0) for part in written.groups())
    return float(hours * 3600 + minutes * 60 + seconds)


Duration = Annotated[float, Field(ge=0.0), BeforeValidator(_in_seconds)]
"""Seconds; written as a number of them, or as `90s`, `10m`, `1h30m`."""


class Section(BaseModel):
    """A group of settings: immutable, no unknown key, no silent conversion of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )
