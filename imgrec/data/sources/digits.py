"""The embedded default: handwritten digits that scikit-learn carries."""

from collections.abc import Iterator

import numpy as np

from imgrec.data.content import InMemoryPixels
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.sample import Named, Sample


class Digits:
    """1,797 digits of 8x8 pixels and 17 levels.

    Source: Alpaydin & Kaynak 1998, UCI Optical Recognition of Handwritten Digits, test part.
    """

    def __iter__(self) -> Iterator[Sample]:
        """In scikit-learn's order."""
        from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second to import

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        for index, (image, label) in enumerate(zip(images, digits.target, strict=True)):
            yield Sample(id=f"{index:04d}", content=InMemoryPixels(image), label=str(label))

    def pictures(self) -> Iterator[Named]:
        """All of them."""
        return ((sample.id, sample.content) for sample in self)

    def state(self) -> str:
        """They never change."""
        return "digits"

    def reading(self) -> Reading:
        """What they are."""
        return Reading("the digits that scikit-learn carries", "the digit")
