"""The embedded default: handwritten digits that scikit-learn carries."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

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
        # Its file: to import scikit-learn takes a second.
        found = find_spec("sklearn")
        assert found
        assert found.origin
        file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        rows = np.loadtxt(file, delimiter=",")
        images = np.round(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        for index, (image, label) in enumerate(zip(images, rows[:, -1].astype(int), strict=True)):
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
