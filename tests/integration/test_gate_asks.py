"""What two models say of the pictures that judge them."""

import numpy as np
import pytest

from imgrec.data import guarded
from imgrec.data.content import InMemoryFile
from imgrec.data.decode import encode_png
from imgrec.evaluation.answers import Answers
from pipelines.promote import ask
from tests.integration.serving.made import make_classifier

CLASSES = ("cat", "dog", "owl")


def about(count: int) -> Answers:
    """Answers of nobody about so many pictures."""
    numbers = np.arange(count)
    return Answers(
        CLASSES,
        numbers.astype(str),
        numbers.astype("V16"),
        numbers % 3,
        numbers * 0,
        numbers * 0.0,
        numbers * 0.0,
    )


@pytest.mark.parametrize(("resize", "passes"), [("fill", 1), ("fit", 2)])
def test_models_that_see_the_same_pixels_have_them_decoded_once(
    resize: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And say what each says by itself; what cannot be read is not recognized by either."""
    decoded = list[int]()
    map_in_chunks = guarded.map_in_chunks

    def counted(*args: object, **options: object) -> object:
        decoded.append(1)
        return map_in_chunks(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(guarded, "map_in_chunks", counted)
    models = [make_classifier(0), make_classifier(1).with_card(resize=resize)]
    pixels = np.random.default_rng(0).integers(0, 255, (50, 8, 12, 1), dtype=np.uint8)
    contents = [InMemoryFile(encode_png(one)) for one in pixels]
    contents[7] = InMemoryFile(b"no picture")
    questions = about(len(contents))
    both = ask(models, questions, contents)
    assert len(decoded) == passes
    alone = [ask([one], questions, contents)[0] for one in models]

    for one, other in zip(both, alone, strict=True):
        np.testing.assert_array_equal(one.predicted, other.predicted)
        np.testing.assert_array_equal(one.loss, other.loss)
        assert one.predicted[7] == -1
        assert (np.delete(one.predicted, 7) >= 0).all()
    assert both[0].loss.tolist() != both[1].loss.tolist()


def test_no_pictures_are_no_answers() -> None:
    """Of either."""
    assert [len(one.loss) for one in ask([make_classifier()] * 2, about(0), [])] == [0, 0]
