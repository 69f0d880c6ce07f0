"""The filters that every picture goes through, in training and in serving alike."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from imgrec.config.section import Section

Sigma = Annotated[float, Field(gt=0.0, le=10.0)]
Side = Annotated[int, Field(ge=3, le=15)]
LEAST_TILE, MOST_TILES = 16, 8


class FilterSettings(Section):
    """The settings of a filter."""

    @property
    def reach(self) -> int:
        """How many pixels away a pixel can matter; 0 where each is taken by itself, or all are."""
        return 0


class Window(FilterSettings):
    """A filter that looks at a square of pixels around each."""

    size: Side = 3
    """Side of the square in pixels, odd."""

    @model_validator(mode="after")
    def _has_a_middle(self) -> Self:
        if self.size % 2 == 0:
            msg = f"size = {self.size} has no middle; take {self.size + 1}"
            raise ValueError(msg)
        return self

    @property
    def reach(self) -> int:
        """How many pixels away a pixel can matter."""
        return self.size // 2


class Gaussian(FilterSettings):
    """Blur: removes fine noise of any kind, and edges with it."""

    filter: Literal["gaussian"] = "gaussian"
    sigma: Sigma = 0.7
    """Standard deviation in pixels."""

    @property
    def reach(self) -> int:
        """How many pixels away a pixel can matter."""
        return max(1, round(3 * self.sigma))


class Median(Window):
    """The middle value of a square: removes single wrong pixels, keeps edges."""

    filter: Literal["median"] = "median"


class Bilateral(Window):
    """A blur over those neighbours that have nearly the same colour, so edges stay.

    Source: Tomasi & Manduchi 1998, "Bilateral Filtering for Gray and Color Images".
    """

    filter: Literal["bilateral"] = "bilateral"
    size: Side = 5
    """Side of the square in pixels, odd."""
    sigma_color: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """How much two colours may differ and still count as one; 1 is black to white."""
    sigma: Sigma = 1.5
    """Standard deviation in pixels."""


class NonLocalMeans(Window):
    """The mean of neighbours by how much the patch around each looks alike.

    Source: Buades, Coll & Morel 2005, "A non-local algorithm for image denoising".
    """

    filter: Literal["non_local_means"] = "non_local_means"
    size: Side = 7
    """Side of the square that is searched, in pixels, odd."""
    patch: Literal[3, 5, 7] = 3
    """Side of the patches that are compared, in pixels."""
    strength: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """How much two patches may differ and still count as alike; about the noise's deviation."""

    @property
    def reach(self) -> int:
        """How many pixels away a pixel can matter."""
        return self.size // 2 + self.patch // 2


class Unsharp(FilterSettings):
    """Sharpen: adds what a blur takes away."""

    filter: Literal["unsharp"] = "unsharp"
    sigma: Sigma = 1.0
    """Standard deviation of the blur in pixels."""
    amount: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    """How much of it to add."""

    @property
    def reach(self) -> int:
        """How many pixels away a pixel can matter."""
        return max(1, round(3 * self.sigma))


class Equalize(FilterSettings):
    """Spread the values of each channel over the whole range."""

    filter: Literal["equalize"] = "equalize"


class Clahe(FilterSettings):
    """Equalize parts of the picture by themselves, with a limit to how much contrast is added.

    Source: Zuiderveld 1994, "Contrast Limited Adaptive Histogram Equalization".
    """

    filter: Literal["clahe"] = "clahe"
    clip: Annotated[float, Field(ge=1.0, le=100.0)] = 2.0
    """How far above the mean a histogram may rise."""
    tiles: Annotated[int, Field(ge=0, le=16)] = 0
    """Parts along each side; 0 makes them of 16 pixels and more, 8 at most: the histogram of fewer
    pixels is all gaps, and washes the picture out."""

    @property
    def reach(self) -> int:
        """Each part needs four pixels a side."""
        return 4 * self.tiles - 1

    def tiles_of(self, side: int) -> int:
        """Parts along the shorter side of a picture of so many pixels."""
        return self.tiles or min(MOST_TILES, max(1, side // LEAST_TILE))


class Grey(FilterSettings):
    """Take the colour out; the number of channels stays. data.channels = 1 makes smaller models."""

    filter: Literal["grey"] = "grey"


def _named(value: Any) -> Any:
    """`"median"` is short for `{filter = "median"}`."""
    if isinstance(value, str):
        value = {"filter": value}
    if isinstance(value, FilterSettings) or (
        isinstance(value, Mapping) and value.get("filter") in FILTERS
    ):
        return value
    msg = f"name a filter: {', '.join(FILTERS)}"
    raise ValueError(msg)


AnyFilter = Gaussian | Median | Bilateral | NonLocalMeans | Unsharp | Equalize | Clahe | Grey
Filter = Annotated[
    Annotated[AnyFilter, Field(discriminator="filter")],
    BeforeValidator(_named),
]
FILTERS: dict[str, type[FilterSettings]] = {
    kind.model_fields["filter"].default: kind for kind in get_args(AnyFilter)
}
