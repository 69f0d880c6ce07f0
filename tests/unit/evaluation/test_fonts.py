"""Names of classes in pictures: in a font that has them, or as numbers with a key; never boxes."""

import warnings

import pytest
import torch
from matplotlib.font_manager import fontManager

from imgrec.evaluation import fonts
from imgrec.evaluation.fonts import USUAL, drawable, families_for, lettering
from imgrec.evaluation.pictures import CLASS_NUMBERS, confusion_picture, learning_curves

CHINESE = ("猫", "狗", "鳥")


def drawn(names: tuple[str, ...], title: str) -> list[str]:
    """The warnings of a picture of a confusion matrix."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = confusion_picture(torch.eye(len(names), dtype=torch.int64), names, title)
        figure.savefig("/dev/null", format="png")
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("names", [CHINESE, ("cat", "dog"), ("مرحبا", "שלום"), ("$a$", "π")])
def test_no_picture_has_a_character_that_its_fonts_have_not(names: tuple[str, ...]) -> None:
    """A box says nothing, and is the same for every class."""
    history = [{"train/loss": 1.0, "val/loss": 1.0, "train/accuracy": 0.5, "val/macro_f1": 0.5}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learning_curves(history, 1, f"{names[0]}: curves").savefig("/dev/null", format="png")

    assert drawn(names, f"{names[0]}-cnn: 90 %") == []


def test_names_that_no_font_has_become_numbers_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with nothing but what Matplotlib brings."""
    usual = [one for one in fontManager.ttflist if one.name == USUAL]
    monkeypatch.setattr(fonts.fontManager, "ttflist", usual)
    letters = lettering(CHINESE)
    figure = confusion_picture(torch.eye(3, dtype=torch.int64), CHINESE, "猫: 90 %")
    (axes, _) = figure.axes

    assert letters == fonts.Lettering(("1", "2", "3"), (USUAL,), numbered=True)
    assert CLASS_NUMBERS in axes.get_xlabel()
    assert axes.get_title(loc="left") == "?: 90 %"
    assert drawable("cnn") == ("cnn", (USUAL,))
    assert drawn(CHINESE, "猫") == []


def test_the_first_font_that_has_all_names_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the usual one, so that what that has looks as ever."""
    names = [one.name for one in fontManager.ttflist]
    own = fonts._characters_of
    monkeypatch.setattr(
        fonts,
        "_characters_of",
        lambda file: own(file) | ({ord("猫")} if "STIXGeneral.ttf" in file else set()),
    )

    assert "STIXGeneral" in names
    assert families_for(["猫", "cat"]) == (USUAL, "STIXGeneral")


def test_a_font_of_boxes_is_no_font() -> None:
    """Matplotlib brings one that has a box for every character there is."""
    assert any(one.name.startswith(fonts.BOXES) for one in fontManager.ttflist)
    families = families_for(["\U000f0000"])
    assert families is None
