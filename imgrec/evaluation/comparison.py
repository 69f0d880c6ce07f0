"""Which of several models is better, and whether that can be told from these pictures at all."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from imgrec.evaluation.intervals import LEVEL, Interval
from imgrec.evaluation.words import Say, english


@dataclass(frozen=True, slots=True)
class Standing:
    """A model among the others.

    Attributes:
        rank: One more than there are models that are better beyond chance.
        accuracy: Share of the test pictures that it recognized; the mean over its seeds.
        accuracy_interval: Where its accuracy lies on all pictures of the kind.
        macro_f1: On the test pictures.
        macro_f1_interval: The same of that.
        seeds: How many it was trained with.
    """

    name: str
    begins_with: str
    rank: int
    accuracy: float
    accuracy_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval
    seeds: int = 1


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two scores.

    Attributes:
        value: That of the first less that of the second.
        interval: Where it lies on all pictures of the kind.
        chance: How often two equal models would differ so much.
        corrected: The same, for all tests of the comparison together.
    """

    value: float
    interval: Interval
    chance: float
    corrected: float

    @property
    def sign(self) -> int:
        """1 where the first is better beyond chance, -1 where the second is, 0 where that cannot be told."""
        return int(np.sign(self.value)) if self.corrected < LEVEL else 0

    def in_words(self, measure: str, say: Say) -> str:
        """`4.1 points of accuracy (95 % interval 3.2 to 5.0)`, of a difference in favour of whoever is named first."""
        low, high = sorted(100 * self.sign * end for end in asdict(self.interval).values())
        return say(
            "{points} points of {measure} (95 % interval {low} to {high})",
            points=f"{100 * abs(self.value):.1f}",
            measure=say(measure),
            low=f"{low:.1f}",
            high=f"{high:.1f}",
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on the same pictures; the first has recognized at least as many.

    Attributes:
        pictures: Test pictures.
        needed: How many would show a difference of one point in accuracy.
    """

    first: str
    second: str
    accuracy: Difference
    macro_f1: Difference
    pictures: int
    needed: int

    @property
    def sign(self) -> int:
        """1 where the first is better beyond chance, by one measure at least and worse by none; -1 for the second."""
        signs = {self.accuracy.sign, self.macro_f1.sign} - {0}
        return signs.pop() if len(signs) == 1 else 0

    def verdict(self, say: Say = english) -> str:
        """One sentence, for people."""
        first, second = self.first, self.second
        if self.accuracy.sign * self.macro_f1.sign == -1:
            return say(
                "{first} recognizes more pictures than {second}, by {accuracy}, and {second} is better by {macro_f1}: "
                "rare classes count more in that",
                first=first,
                second=second,
                accuracy=self.accuracy.in_words("accuracy", say),
                macro_f1=self.macro_f1.in_words("macro-F1", say),
            )
        if not self.sign:
            if self.pictures >= self.needed:
                return say(
                    "{first} and {second} cannot be told apart on {pictures} test pictures; a difference of one point "
                    "would most likely show",
                    first=first,
                    second=second,
                    pictures=f"{self.pictures:,}",
                )
            return say(
                "{first} and {second} cannot be told apart on {pictures} test pictures; about {needed} would be needed "
                "to see a difference of 1 point",
                first=first,
                second=second,
                pictures=f"{self.pictures:,}",
                needed=f"{_rounded(self.needed):,}",
            )
        better, worse = (first, second) if self.sign == 1 else (second, first)
        by = (self.accuracy, "accuracy") if self.accuracy.sign else (self.macro_f1, "macro-F1")
        return say(
            "{better} is better than {worse} by {difference}",
            better=better,
            worse=worse,
            difference=by[0].in_words(by[1], say),
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several models, each with each.

    Attributes:
        pictures: Test pictures.
        standings: The models, in the order in which they were given.
        pairs: All of them.
    """

    pictures: int
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]

    def lines(self, say: Say = english) -> list[str]:
        """The verdicts, for people; with several models the first says which is best."""
        equal = [pair for pair in self.pairs if not (pair.accuracy.sign or pair.macro_f1.sign)]
        if len(equal) > 1:  # a sentence for each would say the same again and again
            needed = sorted(_rounded(pair.needed) for pair in equal)
            least, most = f"{needed[0]:,}", f"{needed[-1]:,}"
            numbers = {
                "pictures": f"{self.pictures:,}",
                "needed": least
                if least == most
                else say("{least} to {most}", least=least, most=most),
            }
            enough = self.pictures >= needed[-1]
            if len(equal) == len(self.pairs):
                lines = [
                    say(
                        "none of the {count} is best: on {pictures} test pictures they cannot be told apart; a difference "
                        "of one point would most likely show"
                        if enough
                        else "none of the {count} is best: on {pictures} test pictures they cannot be told apart; to see a "
                        "difference of 1 point takes about {needed} test pictures",
                        count=str(len(self.standings)),
                        **numbers,
                    )
                ]
            else:
                pairs = ", ".join(
                    say("{first} and {second}", first=pair.first, second=pair.second)
                    for pair in equal
                )
                lines = [
                    *self._best(say),
                    *(pair.verdict(say) for pair in self.pairs if pair not in equal),
                    say(
                        "on {pictures} test pictures these cannot be told apart: {pairs}; a difference of one point "
                        "would most likely show"
                        if enough
                        else "on {pictures} test pictures these cannot be told apart: {pairs}; to see a difference of 1 "
                        "point takes about {needed} test pictures",
                        pairs=pairs,
                        **numbers,
                    ),
                ]
        else:
            lines = self._best(say) if len(self.pairs) > 1 else []
            lines += [pair.verdict(say) for pair in self.pairs]
        if (seeds := max(one.seeds for one in self.standings)) > 1:
            lines.append(
                say(
                    "each was trained with {seeds} seeds: scores are means over them, and intervals hold other seeds too",
                    seeds=str(seeds),
                )
            )
        starts = {one.begins_with for one in self.standings}
        if len(starts) > 1:
            told = ", ".join(
                say("{name} with {start}", name=one.name, start=one.begins_with)
                for one in self.standings
            )
            lines.append(
                say("they began differently ({starts}): starts are compared too", starts=told)
            )
        return lines

    def _best(self, say: Say) -> list[str]:
        """Those that none is better than; there may be none, or accuracy and macro-F1 may disagree about them."""
        first = [one.name for one in self.standings if one.rank == 1]
        among = [pair for pair in self.pairs if pair.first in first and pair.second in first]
        names = ", ".join(first)
        if not first:
            return []
        if len(first) == 1:
            return [say("{name} is the best: no other is better", name=names)]
        if any(pair.accuracy.sign or pair.macro_f1.sign for pair in among):
            return [say("none is better than {names}", names=names)]
        return [say("the best are {names}, which cannot be told apart", names=names)]

    def sentence(self, line: str) -> str:
        """One of the lines with a capital letter, unless it begins with the name of a model."""
        begins_with_name = line.split(" ", maxsplit=1)[0] in {one.name for one in self.standings}
        return line if begins_with_name else line[0].upper() + line[1:]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        pairs = [
            asdict(pair) | {"better": _better(pair), "verdict": pair.verdict()}
            for pair in self.pairs
        ]
        return {
            "pictures": self.pictures,
            "level": LEVEL,
            "models": [asdict(one) for one in self.standings],
            "pairs": pairs,
        }

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Comparison":
        """From what `as_json` gave."""
        return cls(
            pictures=told["pictures"],
            standings=tuple(Standing(**_with_intervals(one)) for one in told["models"]),
            pairs=tuple(
                Pair(
                    first=one["first"],
                    second=one["second"],
                    accuracy=Difference(**_with_intervals(one["accuracy"])),
                    macro_f1=Difference(**_with_intervals(one["macro_f1"])),
                    pictures=one["pictures"],
                    needed=one["needed"],
                )
                for one in told["pairs"]
            ),
        )


def _better(pair: Pair) -> str | None:
    return {1: pair.first, -1: pair.second, 0: None}[pair.sign]


def _rounded(count: int) -> int:
    """To two digits: more would claim more than is known."""
    digits = max(0, len(str(count)) - 2)
    return round(count, -digits)


def _with_intervals(told: Mapping[str, Any]) -> dict[str, Any]:
    return {key: Interval(**one) if key.endswith("interval") else one for key, one in told.items()}
