"""Golden pictures: of every kind, kept with their answers, and another answer is seen."""

from pathlib import Path

import pytest

from imgrec.errors import ClassifierError
from imgrec.evaluation.golden import (
    compare_answers,
    golden_answers,
    golden_pictures,
    keep_golden,
    read_golden,
)
from tests.unit.evaluation.test_trust import classifier


def test_golden_pictures_are_small_read_and_always_the_same(tmp_path: Path) -> None:
    """Only the grey of 16 bits is no picture for a classifier that knows 8."""
    pictures, answers = golden_answers(classifier(max_pixels=1_000_000))
    keep_golden(tmp_path, pictures, answers)
    small, _ = golden_answers(classifier(max_pixels=100))

    assert golden_pictures() == golden_pictures()
    assert sum(map(len, golden_pictures().values())) < 250_000
    assert set(golden_pictures()) - set(pictures) <= {"deep.png"}
    assert set(answers) == set(pictures)
    assert len(answers) > 20
    # What it refuses to read is no question.
    assert set(small) < {"dot.png", "thin.png"}
    assert read_golden(tmp_path) == (pictures, answers)


def test_another_answer_is_seen() -> None:
    """Also a picture that only one of two reads."""
    first = {"a.png": {"x": 0.25, "y": 0.75}, "b.png": {"x": 0.5, "y": 0.5}}
    near = {"a.png": {"x": 0.25, "y": 0.75}, "b.png": {"x": 0.500001, "y": 0.499999}}
    far = first | {"b.png": {"x": 0.6, "y": 0.4}}

    assert compare_answers(first, near).holds
    assert not compare_answers(first, far).holds
    assert compare_answers(first, far).where == "b.png"
    assert compare_answers(first, {"a.png": first["a.png"]}).largest == 1.0


def test_a_model_without_golden_pictures_says_so(tmp_path: Path) -> None:
    """One that an earlier imgrec registered."""
    with pytest.raises(ClassifierError, match="no golden pictures; train it again"):
        read_golden(tmp_path)
