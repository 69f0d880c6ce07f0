"""Names in pictures, in whatever writing they are: by a font that has their glyphs, or else by numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.ft2font import FT2Font

USUAL = "DejaVu Sans"
# It has a box for every character there is.
BOXES = "Last Resort"
LONGEST = 14


@dataclass(frozen=True, slots=True)
class Lettering:
    """How some names stand in a picture.

    Attributes:
        names: The names, shortened; or their numbers, from 1.
        families: Fonts, of which each character takes the first that has it.
        numbered: Whether numbers stand for the names, so that a key must lie beside.
    """

    names: tuple[str, ...]
    families: tuple[str, ...]
    numbered: bool


def lettering(names: Sequence[str], longest: int = LONGEST) -> Lettering:
    """The names in a font that is installed here; their numbers where none has all of their glyphs."""
    short = tuple(name if len(name) <= longest else f"{name[: longest - 1]}…" for name in names)
    families = families_for(short)
    if families is None:
        return Lettering(tuple(str(n) for n in range(1, len(names) + 1)), (USUAL,), numbered=True)
    return Lettering(short, families, numbered=False)


def drawable(text: str) -> tuple[str, tuple[str, ...]]:
    """A line of text and its fonts; what no font has becomes a question mark."""
    families = families_for([text])
    if families is not None:
        return text, families
    known = _characters_of(_usual())
    return "".join(one if ord(one) in known else "?" for one in text), (USUAL,)


def families_for(texts: Iterable[str]) -> tuple[str, ...] | None:
    """The usual font, and the first other one that has what it has not; None where there is no such."""
    wanted = {ord(character) for text in texts for character in text}
    missing = wanted - _characters_of(_usual())
    if not missing:
        return (USUAL,)
    for font in sorted(fontManager.ttflist, key=lambda one: (one.name, one.fname)):
        if font.name.startswith(BOXES):
            continue
        try:
            if missing <= _characters_of(font.fname):
                return (USUAL, font.name)
        except (OSError, RuntimeError):  # a file that is no font, or has gone since it was listed
            continue
    return None


def _usual() -> str:
    entry: FontEntry = next(one for one in fontManager.ttflist if one.name == USUAL)
    return str(entry.fname)


@lru_cache(maxsize=512)
def _characters_of(file: str) -> frozenset[int]:
    return frozenset(FT2Font(file).get_charmap())
