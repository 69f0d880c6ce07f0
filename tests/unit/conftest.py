"""Photographs for the unit tests."""

from pathlib import Path

import pytest
from PIL import Image
from skimage.data import astronaut, chelsea

from tests.unit.data.made import MakePhotos


@pytest.fixture
def make_photos(tmp_path: Path) -> MakePhotos:
    """A function that writes different parts of two photographs as two classes."""

    def make(splits: tuple[str, ...] = ("",), count: int = 12) -> Path:
        folder = tmp_path / "photos"
        for place, split in enumerate(splits):
            for name, photo in (("cat", chelsea()), ("woman", astronaut())):
                target = folder / split / name
                target.mkdir(parents=True)
                for number in range(count):
                    top, left = 30 * (number // 6) + 17 * place, 40 * (number % 6)
                    part = photo[top : top + 90, left : left + 90]
                    Image.fromarray(part).save(target / f"{number:02d}.png")
        return folder

    return make
