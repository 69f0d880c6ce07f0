"""Whether a model may take the place of the champion, by what both said of the same pictures.

A decision moves the alias that others serve by, so it takes evidence. Many challengers on one test set wear its level
out: the k-th decision on a test set has the level LEVEL / (k (k + 1)), and all of them together have LEVEL, for the
sum of 1 / (k (k + 1)) is 1.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from imgrec.config import PromoteConfig
from imgrec.evaluation.answers import Answers, refuse_other_pictures
from imgrec.evaluation.intervals import LEVEL, Interval, difference_interval, mcnemar

MOST_NAMED, PERMUTATIONS = 3, 2000


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a decision rests on.

    Attributes:
        test_set: Hash of the pictures and their classes.
        pictures: How many of them judged; of the others the models had learned.
        number: Of the decision among all on this test set, from 1.
        level: Of its test.
        challenger: Accuracy.
        champion: Accuracy; where there is no champion, of always saying the most frequent class.
        only_challenger: Pictures that the challenger alone recognized.
        only_champion: Those that the champion alone recognized.
        chance: How often a challenger that is no better would do so well.
        difference: Of the accuracies, where it lies on all pictures of the kind.
        fallen: Recall of the classes that fell by more than may be, before and after.
        loss_rise: Mean rise of the log loss in nats, where it lies.
    """

    test_set: str
    pictures: int
    number: int
    level: float
    challenger: float
    champion: float
    only_challenger: int
    only_champion: int
    chance: float
    difference: Interval
    fallen: dict[str, tuple[float, float]]
    loss_rise: Interval | None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a model becomes champion, and why.

    Attributes:
        promoted: It does.
        reason: For people, in one line.
        evidence: None where nothing could be compared.
    """

    promoted: bool
    reason: str
    evidence: Evidence | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def judge(
    challenger: Answers,
    champion: Answers,
    rules: PromoteConfig,
    *,
    number: int,
    learned: npt.NDArray[np.bool_],
) -> Decision:
    """Whether a challenger replaces a champion.

    Args:
        challenger: What it said of the test pictures.
        champion: What the champion said of the same.
        rules: By which it is decided.
        number: Of this decision among all on this test set, from 1.
        learned: Pictures that either of them has learned from, (N,); they judge nothing.
    """
    refuse_other_pictures([challenger, champion])
    level = LEVEL / (number * (number + 1))
    test_set = challenger.digest()
    if too_few := _too_few(learned, rules.least_pictures):
        return too_few
    kept = np.flatnonzero(~learned)
    challenger, champion = challenger.rows(kept), champion.rows(kept)
    evidence = replace(
        _evidence(challenger, champion, number, level, test_set),
        fallen=_fallen(challenger, champion, rules.recall_margin),
        loss_rise=_rise(challenger.loss - champion.loss),
    )
    return _decided(evidence, rules)


def judge_first(
    challenger: Answers,
    trained: Sequence[int],
    *,
    number: int,
    learned: npt.NDArray[np.bool_],
    balanced: bool,
) -> Decision:
    """Whether a model becomes champion where there is none: it must beat always saying the most frequent class.

    One that was trained to recognize all classes alike gives up pictures of the frequent ones for those of rare ones,
    and may have fewer right than that. It must have a balanced accuracy that no one has who does not look.

    Args:
        challenger: What it said of the test pictures.
        trained: Training pictures of each class, K numbers.
        number: Of this decision among all on this test set, from 1.
        learned: Pictures that it has learned from, (N,), by what it began with; they judge nothing.
        balanced: Training has set the frequencies of the classes aside.
    """
    level = LEVEL / (number * (number + 1))
    test_set = challenger.digest()
    if too_few := _too_few(learned, 1):  # that few show little is what the test is for
        return too_few
    challenger = challenger.rows(np.flatnonzero(~learned))
    most = int(np.argmax(trained))
    always = replace(challenger, predicted=np.full_like(challenger.predicted, most))
    evidence = _evidence(challenger, always, number, level, test_set)
    pictures = f"{evidence.pictures:,} test pictures"
    what = f"whoever always says {challenger.class_names[most]!r}, the class with most training pictures"
    scores = f"{evidence.challenger:.1%} against {evidence.champion:.1%} right of {pictures}"
    if balanced:
        mean, guessed, chance = _balanced(challenger)
        evidence = replace(evidence, challenger=mean, champion=guessed, chance=chance)
        what = "whoever guesses"
        scores = f"a balanced accuracy of {mean:.1%} against {guessed:.1%} on {pictures}"
    if evidence.chance < level:
        return Decision(True, f"it beats {what}, {scores}", evidence)
    reason = (
        f"it does not beat {what} beyond chance, {scores}; more pictures, longer training or a larger test split may "
        f"show more"
    )
    return Decision(False, reason, evidence)


def _balanced(answers: Answers) -> tuple[float, float, float]:
    """Balanced accuracy, that of guessing, and how often who does not look does so well: a permutation test.

    Source: Ojala and Garriga 2010, "Permutation Tests for Studying Classifier Performance".
    """
    present, labels = np.unique(answers.labels, return_inverse=True)
    share = 1 / (np.bincount(labels)[labels] * len(present))
    found = float(share[answers.right].sum())
    rng = np.random.default_rng(0)
    as_good = sum(
        float(share[rng.permutation(answers.predicted) == answers.labels].sum()) >= found - 1e-12
        for _ in range(PERMUTATIONS)
    )
    return found, 1 / len(present), (as_good + 1) / (PERMUTATIONS + 1)


def _too_few(learned: npt.NDArray[np.bool_], least: int) -> Decision | None:
    left = int((~learned).sum())
    if left >= least:
        return None
    reason = f"{left:,} test pictures are left that were not learned from, and it takes {least:,}"
    if least > 1:
        reason = f"{reason} (promote.least_pictures)"
    return Decision(False, reason)


def _evidence(
    challenger: Answers, champion: Answers, number: int, level: float, test_set: str
) -> Evidence:
    only = (
        int((challenger.right & ~champion.right).sum()),
        int((champion.right & ~challenger.right).sum()),
    )
    total = len(challenger.labels)
    return Evidence(
        test_set=test_set,
        pictures=total,
        number=number,
        level=level,
        challenger=float(challenger.right.mean()),
        champion=float(champion.right.mean()),
        only_challenger=only[0],
        only_champion=only[1],
        chance=mcnemar(*only, one_sided=True),
        difference=difference_interval(*only, total),
        fallen={},
        loss_rise=None,
    )


def _decided(evidence: Evidence, rules: PromoteConfig) -> Decision:
    """By the rules, the first that refuses first."""
    scores = f"{evidence.challenger:.1%} against {evidence.champion:.1%} right of {evidence.pictures:,} test pictures"
    nth = f"decision {evidence.number} on this test set, level {evidence.level:.2g}"
    if rules.rule == "better" and evidence.chance >= evidence.level:
        reason = f"it is not better beyond chance: {scores}, p = {evidence.chance:.2g} ({nth})"
        return Decision(False, reason, evidence)
    if rules.rule == "not_worse":
        only = evidence.only_challenger, evidence.only_champion
        low = difference_interval(*only, evidence.pictures, level=2 * evidence.level).low
        if low <= -rules.margin:
            reason = (
                f"it may be worse by {-100 * low:.1f} points, and promote.margin allows {100 * rules.margin:.1f}: "
                f"{scores} ({nth})"
            )
            return Decision(False, reason, evidence)
    if evidence.fallen:
        some = ", ".join(
            f"{name} from {before:.0%} to {after:.0%}"
            for name, (before, after) in list(evidence.fallen.items())[:MOST_NAMED]
        )
        return Decision(False, f"it recognizes fewer of {some}: {scores}", evidence)
    if evidence.loss_rise and evidence.loss_rise.low > rules.loss_margin:
        reason = (
            f"its probabilities are worse, by {evidence.loss_rise.low:.3f} nats at least, and promote.loss_margin "
            f"allows {rules.loss_margin:g}: {scores}"
        )
        return Decision(False, reason, evidence)
    better = "better" if rules.rule == "better" else "not worse"
    return Decision(True, f"it is {better}: {scores}, p = {evidence.chance:.2g} ({nth})", evidence)


def _fallen(
    challenger: Answers, champion: Answers, margin: float
) -> dict[str, tuple[float, float]]:
    """Classes whose recall has fallen by more than a margin beyond chance, with both recalls; the worst first."""
    classes = np.unique(challenger.labels)
    found: dict[str, tuple[float, float]] = {}
    for k in classes.tolist():
        old, new = (one.right[challenger.labels == k] for one in (champion, challenger))
        only = int((new & ~old).sum()), int((old & ~new).sum())
        # All classes together are held to LEVEL.
        between = difference_interval(*only, len(old), level=LEVEL / len(classes))
        if between.high < -margin:
            found[challenger.class_names[k]] = float(old.mean()), float(new.mean())
    return dict(sorted(found.items(), key=lambda one: one[1][1] - one[1][0]))


def _rise(differences: npt.NDArray[np.float64]) -> Interval | None:
    """Of a mean of paired differences; None where one alone says nothing."""
    from scipy.stats import t  # noqa: PLC0415 - half a second, and only at the end of a run

    total = len(differences)
    if total < 2:
        return None
    reach = float(t.ppf(1 - LEVEL / 2, total - 1) * differences.std(ddof=1) / np.sqrt(total))
    mean = float(differences.mean())
    return Interval(mean - reach, mean + reach)
