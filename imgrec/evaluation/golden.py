"""Golden pictures: small files of every kind that is read, by which a classifier is held to its answers.

Whoever registers a classifier keeps them with its answers. Wherever it is loaded later, it must answer the same.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, features

from imgrec.classifier import Classifier
from imgrec.errors import ClassifierError, DecodeError

MOST_DIFFERENT = 1e-5
"""That probabilities may differ by: sums of floats in another order differ by less, another picture by far more."""
FILE = "golden.zip"
"""Beside a classifier."""
ANSWERS = "answers.json"
SIZE = (37, 53)
UPRIGHT_AFTER = 6
"""An EXIF orientation: turned by a quarter."""
Probabilities = dict[str, dict[str, float]]
"""Of every class, by the name of a picture."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How alike two sets of answers are.

    Attributes:
        pictures: That both answered.
        largest: Largest difference of a probability.
        where: The picture with it.
    """

    pictures: int
    largest: float
    where: str

    @property
    def holds(self) -> bool:
        """Whether they are the same but for the order of sums."""
        return self.largest <= MOST_DIFFERENT


def golden_pictures() -> dict[str, bytes]:
    """Small pictures by name: all modes and formats that are read and that Pillow writes, odd sizes, a turned one."""
    Image.init()  # or it knows only the formats that it has met
    return dict(_pictures())


def answers_of(classifier: Classifier, pictures: Mapping[str, bytes]) -> Probabilities:
    """What a classifier says of the pictures that it reads."""
    said = zip(pictures, classifier.predict_each(list(pictures.values())), strict=True)
    return {name: one.probabilities for name, one in said if not isinstance(one, DecodeError)}


def golden_answers(classifier: Classifier) -> tuple[dict[str, bytes], Probabilities]:
    """The golden pictures that a classifier reads, and what it says of them.

    Whoever compares asks about exactly these, in this order: other pictures in a batch would change the order of sums.
    """
    pictures = golden_pictures()
    answers = answers_of(classifier, pictures)
    if len(answers) < len(pictures):
        pictures = {name: content for name, content in pictures.items() if name in answers}
        answers = answers_of(classifier, pictures)
    return pictures, answers


def compare_answers(first: Probabilities, second: Probabilities) -> Parity:
    """How alike they are; a picture that only one of them has answered is as different as can be."""
    differences = {
        name: max(abs(first[name][label] - second[name][label]) for label in first[name])
        if name in first and name in second
        else 1.0
        for name in {**first, **second}
    }
    where = max(differences, key=differences.__getitem__)
    return Parity(len(differences), differences[where], where)


def keep_golden(folder: Path, pictures: Mapping[str, bytes], answers: Probabilities) -> None:
    """Write pictures and answers into one file beside a classifier."""
    with zipfile.ZipFile(folder / FILE, "w") as archive:
        for name, content in pictures.items():
            archive.writestr(name, content)
        archive.writestr(ANSWERS, json.dumps(answers))


def read_golden(folder: Path) -> tuple[dict[str, bytes], Probabilities]:
    """What `keep_golden` wrote.

    Raises:
        ClassifierError: it is not there: an earlier imgrec registered the classifier.
    """
    try:
        with zipfile.ZipFile(folder / FILE) as archive:
            names = [name for name in archive.namelist() if name != ANSWERS]
            pictures = {name: archive.read(name) for name in names}
            answers: Probabilities = json.loads(archive.read(ANSWERS))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        msg = f"{folder}: it has no golden pictures; train it again"
        raise ClassifierError(msg) from error
    return pictures, answers


def _pictures() -> Iterator[tuple[str, bytes]]:
    colour = _drawn(SIZE)
    grey = colour.convert("L")
    transparent = colour.copy()
    transparent.putalpha(grey)
    turned = Image.Exif()
    turned[0x0112] = UPRIGHT_AFTER
    yield "rgb.jpg", _file(colour, "JPEG", quality=90)
    yield "grey.jpg", _file(grey, "JPEG")
    yield "cmyk.jpg", _file(colour.convert("CMYK"), "JPEG")
    yield "progressive.jpg", _file(colour, "JPEG", progressive=True)
    yield "turned.jpg", _file(colour, "JPEG", exif=turned)
    yield "large.jpg", _file(_drawn((600, 803)), "JPEG")
    yield "rgb.png", _file(colour, "PNG")
    yield "alpha.png", _file(transparent, "PNG")
    yield "grey.png", _file(grey, "PNG")
    yield "grey-alpha.png", _file(transparent.convert("LA"), "PNG")
    yield "palette.png", _file(colour.quantize(16), "PNG")
    yield "bits.png", _file(grey.convert("1"), "PNG")
    yield "deep.png", _file(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG")
    yield "dot.png", _file(_drawn((1, 1)), "PNG")
    yield "thin.png", _file(_drawn((3, 190)), "PNG")
    yield "colour.gif", _file(colour.quantize(64), "GIF")
    for ending, kind in (("bmp", "BMP"), ("ppm", "PPM"), ("tif", "TIFF"), ("tga", "TGA")):
        yield f"rgb.{ending}", _file(colour, kind)
    for ending, kind in (
        ("pcx", "PCX"),
        ("sgi", "SGI"),
        ("dds", "DDS"),
        ("im", "IM"),
        ("dib", "DIB"),
    ):
        yield f"rgb.{ending}", _file(colour, kind)
    for ending, kind in (("xbm", "XBM"), ("msp", "MSP")):
        yield f"bits.{ending}", _file(grey.convert("1"), kind)
    yield "rgb.ico", _file(colour, "ICO", sizes=[(32, 32)])
    if "QOI" in Image.SAVE:
        yield "rgb.qoi", _file(colour, "QOI")
    yield "grey.tif", _file(grey, "TIFF", compression="tiff_lzw")
    for ending, kind, codec in (
        ("webp", "WEBP", "webp"),
        ("avif", "AVIF", "avif"),
        ("jp2", "JPEG2000", "jpg_2000"),
    ):
        if features.check(codec):
            yield f"rgb.{ending}", _file(colour, kind)


def _drawn(size: tuple[int, int]) -> Image.Image:
    """A picture of this height and width with edges and slopes in every colour."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    red = 255 * columns / max(1, width - 1)
    green = 255 * rows / max(1, height - 1)
    blue = np.where((rows // 7 + columns // 5) % 2, 220, 30)
    return Image.fromarray(np.stack([red, green, blue], axis=2).round().astype(np.uint8))


def _file(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()
