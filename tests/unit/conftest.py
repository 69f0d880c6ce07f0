"""Photographs for the unit tests."""

from collections.abc import Callable
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


@pytest.fixture
def make_large_photos(tmp_path: Path) -> Callable[[], Path]:
    """A function that writes 28 parts of two photographs, large enough to be taken for photos, as two classes."""

    def make() -> Path:
        folder = tmp_path / "large"
        for name, photo in (("cat", chelsea()), ("woman", astronaut())):
            (folder / name).mkdir(parents=True)
            for number in range(14):
                top, left = 24 * (number // 4), 80 * (number % 4)
                part = photo[top : top + 128, left : left + 128]
                Image.fromarray(part).resize((128, 128)).save(folder / name / f"{number:02d}.png")
        return folder

    return make
