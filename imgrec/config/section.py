"""What every section of the settings has in common."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Resize = Literal["fill", "fit", "stretch"]
ImageShape = tuple[int, int, int]
"""Height, width, channels (1 or 3)."""

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Widths = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=16, strict=False)]


class Section(BaseModel):
    """A group of settings: immutable, no unknown key, no silent conversion of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )
