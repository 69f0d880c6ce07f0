"""Who becomes champion: by simulation where the truth is known, and rule by rule."""

from dataclasses import replace

import numpy as np
import pytest

from imgrec.config import PromoteConfig
from imgrec.evaluation.answers import Answers
from imgrec.evaluation.gate import Decision, judge, judge_first
from imgrec.evaluation.intervals import LEVEL
from tests.unit.evaluation.made import answers_of, drawn

RULES = PromoteConfig()


def judged(
    challenger: Answers, champion: Answers, rules: PromoteConfig = RULES, *, number: int = 1
) -> Decision:
    nothing = np.zeros(len(champion.labels), dtype=bool)
    return judge(challenger, champion, rules, number=number, learned=nothing)


def most(level: float, sets: int) -> float:
    """A share that chance exceeds in one of a thousand simulations."""
    return float(level + 3 * np.sqrt(level * (1 - level) / sets))


def test_of_identical_models_no_more_are_promoted_than_the_level_allows() -> None:
    """2,000 simulated test sets, with all rules on."""
    rng = np.random.default_rng(0)
    promoted = 0
    for _ in range(2000):
        champion, challenger = drawn(rng, 300, 5, (0.9, 0.9))
        promoted += judged(challenger, champion).promoted
    assert promoted / 2000 <= most(LEVEL / 2, 2000)


def test_a_family_of_challengers_on_one_test_set_keeps_the_level() -> None:
    """Fifty that are no better, one after the other: in 19 of 20 families none is promoted."""
    rng = np.random.default_rng(0)
    families = 200
    wrong = 0
    for _ in range(families):
        champion, *others = drawn(rng, 200, 4, [0.85] * 51)
        wrong += any(
            judged(one, champion, number=number).promoted
            for number, one in enumerate(others, start=1)
        )
    assert wrong / families <= most(LEVEL, families)


def test_a_model_that_is_better_is_promoted() -> None:
    """Three points on 10,000 pictures, more than 95 times in 100; also as the third decision on the set."""
    rng = np.random.default_rng(0)
    promoted = 0
    for _ in range(200):
        champion, challenger = drawn(rng, 10_000, 10, (0.90, 0.93))
        promoted += judged(challenger, champion, number=3).promoted
    assert promoted / 200 > 0.95


def test_not_worse_promotes_equals_and_no_others() -> None:
    """For models that are wanted for another reason: equal ones pass with pictures enough, worse ones do not."""
    rng = np.random.default_rng(0)
    rules = PromoteConfig(rule="not_worse", margin=0.02)
    equal = worse = 0
    for _ in range(200):
        champion, same, bad = drawn(rng, 10_000, 4, (0.9, 0.9, 0.88))
        equal += judged(same, champion, rules).promoted
        worse += judged(bad, champion, rules).promoted
    assert equal / 200 > 0.95
    assert worse / 200 <= most(LEVEL / 2, 200)
    assert "promote.margin allows 2.0" in judged(bad, champion, rules).reason


def test_a_class_that_is_no_longer_seen_is_a_reason_against() -> None:
    """The mean may rise all the same; the class is named with its recall before and after."""
    labels = np.repeat([0, 1], [900, 100])
    champion = answers_of(labels, np.where(np.arange(1000) % 5 == 0, 1 - labels, labels), 2)
    challenger = answers_of(labels, [0] * 960 + [1] * 40, 2)
    decision = judged(challenger, champion)

    assert not decision.promoted
    assert decision.evidence
    assert decision.evidence.chance < decision.evidence.level
    assert "it recognizes fewer of class 1 from 80% to 40%" in decision.reason
    assert judged(challenger, champion, PromoteConfig(recall_margin=1.0)).promoted


def test_probabilities_that_are_surely_worse_are_a_reason_against() -> None:
    """A better accuracy with a temperature that is wrong misleads whoever acts on probabilities."""
    champion, challenger = drawn(np.random.default_rng(0), 2000, 4, (0.8, 0.9))
    sure = replace(challenger, loss=np.full(2000, 0.5))
    decision = judged(sure, champion)

    assert not decision.promoted
    assert "its probabilities are worse, by 0.500 nats at least" in decision.reason
    assert judged(sure, champion, PromoteConfig(loss_margin=0.6)).promoted


def test_what_either_has_learned_from_judges_nothing() -> None:
    """And with too few pictures left nothing is decided."""
    labels = np.zeros(100, dtype=int)
    champion = answers_of(labels, np.where(np.arange(100) < 50, 1, 0), 2)
    challenger = answers_of(labels, labels, 2)
    learned = np.arange(100) < 50
    decision = judge(challenger, champion, RULES, number=1, learned=learned)
    few = judge(challenger, champion, RULES, number=1, learned=np.arange(100) < 81)

    assert judged(challenger, champion).promoted
    assert not decision.promoted
    assert decision.evidence
    assert decision.evidence.pictures == 50
    assert decision.evidence.test_set == challenger.digest()
    assert not few.promoted
    assert "19 test pictures are left that were not learned from, and it takes 20" in few.reason


@pytest.mark.parametrize(("rate", "promoted"), [(0.8, True), (0.55, False)])
def test_a_first_champion_beats_always_saying_the_most_frequent_class(
    rate: float, promoted: bool
) -> None:
    """Of the training pictures, by the same test."""
    rng = np.random.default_rng(0)
    labels = (rng.random(200) < 0.45).astype(int)
    said = np.where(rng.random(200) < rate, labels, 1 - labels)
    nothing = np.zeros(200, dtype=bool)
    decision = judge_first(
        answers_of(labels, said, 2), (500, 400), number=1, learned=nothing, balanced=False
    )

    assert decision.promoted is promoted
    assert "always says 'class 0'" in decision.reason
    assert ("beyond chance" in decision.reason) is not promoted


@pytest.mark.parametrize(("recall", "promoted"), [(0.75, True), (0.5, False)])
def test_a_first_champion_that_was_trained_for_rare_classes_need_not_have_more_right(
    recall: float, promoted: bool
) -> None:
    """Of 100 pictures 90 are of one class: who recognizes 3 of 4 of each has fewer right than who always says it."""
    labels = np.repeat([0, 1], [180, 20])
    hit = np.arange(200) % 20 < 20 * recall
    answers = answers_of(labels, np.where(hit, labels, 1 - labels), 2)
    nothing = np.zeros(200, dtype=bool)
    decision = judge_first(answers, (900, 100), number=1, learned=nothing, balanced=True)

    assert decision.promoted is promoted
    assert f"a balanced accuracy of {recall:.1%} against 50.0%" in decision.reason


def test_of_models_that_do_not_look_few_become_first_champion() -> None:
    """By either test no more than the level: 300 sets of 40 pictures, three standard errors."""
    rng = np.random.default_rng(0)
    nothing = np.zeros(40, dtype=bool)
    for balanced in (False, True):
        promoted = 0
        for _ in range(300):
            labels, said = (rng.random((2, 40)) < 0.3).astype(int)
            answers = answers_of(labels, said, 2)
            promoted += judge_first(
                answers, (70, 30), number=1, learned=nothing, balanced=balanced
            ).promoted
        assert promoted / 300 <= most(LEVEL / 2, 300)
