"""Which model is better: in words that a person can rely on."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from imgrec.errors import ClassifierError
from imgrec.evaluation.answers import Answers
from imgrec.evaluation.comparison import Comparison, Difference, Pair, Standing
from imgrec.evaluation.contest import compare
from imgrec.evaluation.intervals import Interval
from imgrec.evaluation.words import chinese, english
from tests.unit.evaluation.made import answers_of, contender, drawn


def test_a_better_model_is_called_so_and_equal_ones_are_not() -> None:
    """Ranks group what cannot be told apart, and the sentence says how many pictures would tell."""
    rng = np.random.default_rng(0)
    good, also, bad = drawn(rng, 400, 5, (0.95, 0.945, 0.7))
    found = compare([contender("bad", bad), contender("good", good), contender("also", also)])
    ranks = {one.name: one.rank for one in found.standings}
    verdicts = {(pair.first, pair.second): pair.verdict() for pair in found.pairs}
    (equal,) = (text for names, text in verdicts.items() if "bad" not in names)

    assert ranks == {"good": 1, "also": 1, "bad": 3}
    assert "good is better than bad by 2" in verdicts["good", "bad"]
    assert "points of accuracy (95 % interval" in verdicts["good", "bad"]
    assert "cannot be told apart on 400 test pictures; about" in equal
    assert "would be needed to see a difference of 1 point" in equal


def test_models_that_cannot_be_told_apart_share_a_line() -> None:
    """Six sentences that say the same would hide a seventh that does not."""
    rng = np.random.default_rng(0)
    models = drawn(rng, 300, 5, (0.9, 0.9, 0.9, 0.5))
    better, equal = (
        (
            lines := compare(
                [contender(name, one) for name, one in zip("abcd", models, strict=True)]
            ).lines()
        )[1:4],
        lines[4:],
    )
    assert lines[0] == "the best are a, b, c, which cannot be told apart"

    assert all("is better than d by" in line for line in better)
    assert len(equal) == 1
    assert equal[0].startswith("on 300 test pictures these cannot be told apart: ")
    assert all(
        f"{one} and {other}" in equal[0] or f"{other} and {one}" in equal[0]
        for one, other in ("ab", "ac", "bc")
    )


def test_what_only_macro_f1_shows_is_said() -> None:
    """A model that never recognizes a rare class, beside one that does."""
    labels = [0] * 380 + [1] * 20
    blind = answers_of(labels, [0] * 400, 2)
    sees = answers_of(labels, [0] * 368 + [1] * 12 + [1] * 18 + [0] * 2, 2)
    found = compare([contender("blind", blind), contender("sees", sees)])

    assert found.lines() == [found.pairs[0].verdict()]
    assert found.lines()[0].startswith("sees is better than blind by")
    assert "points of macro-F1" in found.lines()[0]


def test_measures_that_contradict_each_other_are_both_named() -> None:
    """Which of them counts is for a person to say, so neither is called better."""
    labels = [0] * 960 + [1] * 40
    blind = answers_of(labels, [0] * 1000, 2)
    eager = answers_of(labels, [0] * 900 + [1] * 60 + [1] * 38 + [0] * 2, 2)
    found = compare([contender("blind", blind), contender("eager", eager)])

    assert [one.rank for one in found.standings] == [1, 1]
    assert "blind recognizes more pictures than eager" in found.lines()[0]
    assert "eager is better by" in found.lines()[0]


def test_what_began_differently_is_said() -> None:
    """A pretrained network beside one from noise compares starts, not architectures."""
    one, other = drawn(np.random.default_rng(0), 50, 3, (0.9, 0.5))
    found = compare([contender("cnn", one, begins_with="lite0"), contender("rnn", other)])

    assert found.lines()[-1] == (
        "they began differently (cnn with lite0, rnn with random weights): starts are compared too"
    )


def test_a_comparison_is_on_record_as_json() -> None:
    """What is read is what was written."""
    found = compare(
        [
            contender(str(number), one)
            for number, one in enumerate(drawn(np.random.default_rng(0), 60, 3, (0.9, 0.5, 0.8)))
        ]
    )

    assert Comparison.of(json.loads(json.dumps(found.as_json()))) == found


def test_verdicts_on_equal_models_are_rarely_wrong() -> None:
    """Of four equal models no two are told apart in 19 of 20 comparisons: 200 of them, three standard errors."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        models = drawn(rng, 200, 4, (0.8, 0.8, 0.8, 0.8))
        found = compare([contender(str(number), one) for number, one in enumerate(models)])
        wrong += any(pair.sign for pair in found.pairs)
    assert wrong / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_answers_are_kept_without_pickle(tmp_path: Path) -> None:
    """Names in any writing; a broken file is one line. The digest is of the set, in any order."""
    one = answers_of([0, 1, 1], [0, 1, 0], 2)
    named = Answers(("猫", "dog"), *(getattr(one, key) for key in Answers.__slots__[1:]))
    named.save(tmp_path / "answers.npz")
    kept = Answers.load(tmp_path / "answers.npz")
    turned = Answers(kept.class_names, *(getattr(kept, key)[::-1] for key in Answers.__slots__[1:]))

    assert kept.class_names == named.class_names
    assert np.array_equal(kept.pictures, named.pictures)
    assert kept.digest() == named.digest() == turned.digest() != one.digest()
    (tmp_path / "answers.npz").write_bytes(b"PK\3\4")
    with pytest.raises(ClassifierError, match=r"answers\.npz: no answers of a model"):
        Answers.load(tmp_path / "answers.npz")


def seeded(
    rng: np.random.Generator, mean: float, spread: float, labels: np.ndarray
) -> list[Answers]:
    """An architecture whose seeds are differently good, asked about the same pictures."""
    models = []
    for rate in np.clip(rng.normal(mean, spread, 3), 0, 1):
        wrong = (labels + rng.integers(1, 4, len(labels))) % 4
        said = np.where(rng.random(len(labels)) < rate, labels, wrong)
        models.append(answers_of(labels, said, 4))
    return models


def test_intervals_of_several_seeds_hold_what_other_seeds_would_bring() -> None:
    """Two equal architectures, whose seeds differ by three points: one seed each would see differences.

    Three seeds tell little of their spread, so the level of 5 % is nearly, not wholly, kept.
    """
    rng = np.random.default_rng(0)
    apart = covered = 0
    rounds = 120
    for _ in range(rounds):
        labels = rng.integers(0, 4, 1500)
        one, other = (seeded(rng, 0.85, 0.03, labels) for _ in range(2))
        found = compare([contender("one", *one), contender("other", *other)])
        (pair,) = found.pairs
        apart += pair.accuracy.sign != 0
        interval = found.standings[0].accuracy_interval
        covered += interval.low <= 0.85 <= interval.high

    assert apart / rounds < 0.12
    assert covered / rounds > 0.82


def test_an_architecture_that_is_better_with_every_seed_is_called_so() -> None:
    """Scores are means, the words say how many seeds there were, and the record keeps it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 1500)
    good, bad = seeded(rng, 0.95, 0.005, labels), seeded(rng, 0.8, 0.01, labels)
    found = compare([contender("bad", *bad), contender("good", *good)])
    accuracy = np.mean([one.right.mean() for one in good])

    assert {one.name: (one.rank, one.seeds) for one in found.standings} == {
        "good": (1, 3),
        "bad": (2, 3),
    }
    assert found.standings[1].accuracy == pytest.approx(accuracy)
    assert "good is better than bad by 1" in found.lines()[0]
    assert any("each was trained with 3 seeds" in line for line in found.lines())
    assert Comparison.of(json.loads(json.dumps(found.as_json()))) == found


def pair(first: str, second: str, accuracy: int, f1: int) -> Pair:
    """A pair of which one is better by a measure (1), or the other (-1), or neither (0)."""
    told = [
        Difference(0.03 * sign, Interval(0.0, 0.1), 0.5, 0.001 if sign else 0.5)
        for sign in (accuracy, f1)
    ]
    return Pair(first, second, told[0], told[1], pictures=1000, needed=500)


@pytest.mark.parametrize(
    ("signs", "ranks", "first"),
    [
        (
            ((1, 1), (1, 1), (0, 0)),
            (1, 2, 2),
            "a is the best: no other is better",
        ),
        (((0, 0), (1, 1), (1, 1)), (1, 1, 3), "the best are a, b, which cannot be told apart"),
        (((1, -1), (1, 1), (1, 1)), (1, 1, 3), "none is better than a, b"),
        (((0, 0), (0, 0), (0, 0)), (1, 1, 1), "none of the 3 is best: on 1,000 test pictures they"),
        (((1, 1), (-1, -1), (1, 1)), (2, 2, 2), "a is better than b by"),
    ],
)
def test_the_first_line_says_which_is_best(
    signs: tuple[tuple[int, int], ...], ranks: tuple[int, ...], first: str
) -> None:
    """Also where the measures disagree, and where each is worse than another; enough pictures are not called too few."""
    names = list(itertools.combinations("abc", 2))
    pairs = tuple(pair(*two, *sign) for two, sign in zip(names, signs, strict=True))
    interval = Interval(0.8, 1.0)
    standings = tuple(
        Standing(name, "random weights", rank, 0.9, interval, 0.9, interval)
        for name, rank in zip("abc", ranks, strict=True)
    )
    found = Comparison(1000, standings, pairs)
    for say in (english, chinese):
        assert len(found.lines(say)) == len(found.lines())
    assert found.lines()[0].startswith(first)
    assert not any("takes about" in line for line in found.lines())
    assert found.sentence("a is better") == "a is better"
    assert found.sentence("the best is a") == "The best is a"
