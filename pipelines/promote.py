"""Whether a registered version becomes champion: both models are asked about the same test pictures, now."""

import itertools
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imgrec.classifier import WEIGHTS, Classifier, Prediction, read_card
from imgrec.config import DataConfig, PromoteConfig
from imgrec.config.check import checked
from imgrec.data.content import Content
from imgrec.data.guarded import decode_all
from imgrec.data.sources import open_source
from imgrec.data.sources.listing import list_samples
from imgrec.errors import ClassifierError, DataError, DecodeError, TrackingError
from imgrec.evaluation.answers import Answers
from imgrec.evaluation.costs import time_in_turns
from imgrec.evaluation.gate import Decision, judge, judge_first
from imgrec.evaluation.golden import Parity
from imgrec.tracking.connection import Tracking
from imgrec.tracking.promotion import Verdict, decide, decisions_on
from imgrec.tracking.query import fetch_file, find_run
from imgrec.tracking.tags import PARITY
from imgrec.tracking.versions import RegisteredVersion, fetch_classifier, read_trained_on
from pipelines.record.entries import ANSWERS, DATA, SETTINGS

SAME = ("data.fingerprint", "data.splits")
"""Tags of versions that were scored on the same pictures of the same data."""
ACCEPT = "--accept-new-data"


def promote(
    tracking: Tracking,
    storage: Path,
    version: RegisteredVersion,
    rules: PromoteConfig,
    command: str,
    *,
    accept_new_data: bool = False,
) -> tuple[Verdict, RegisteredVersion]:
    """Make a version champion if it has earned it; record the decision either way.

    Args:
        tracking: Where it is registered.
        storage: For pictures that have to be fetched.
        version: Which.
        rules: By which it is decided.
        command: What the user typed.
        accept_new_data: Judge it also over a champion of other data, on its own test pictures; over one of other
            classes, as if there were none.

    Raises:
        TrackingError: the record lacks what it takes, or MLflow does not answer.
    """
    if version.champion:
        msg = f"{version.name}/{version.version}: is champion already; name another with --version"
        raise TrackingError(msg)
    gate = _Gate(tracking, storage, version, rules, accept_new_data)
    return decide(tracking, version, gate.verdict_on, command)


@dataclass(frozen=True)
class _Gate:
    """One version before the question whether it replaces the champion."""

    tracking: Tracking
    storage: Path
    version: RegisteredVersion
    rules: PromoteConfig
    accept_new_data: bool

    def verdict_on(self, champion: RegisteredVersion | None) -> Verdict:
        """What is to be done, given the champion."""
        answers = self._recorded_answers()
        number = 1 + decisions_on(self.tracking, self.version.name, answers.digest())
        try:
            decision = self._decision(answers, champion, number)
        except (ClassifierError, DataError) as error:
            # Nothing is lost: it is registered, and can be judged again when that is cured.
            decision = Decision(False, f"they could not be compared: {error}")
        outcome = "promoted" if decision.promoted else "refused"
        reason = decision.reason
        if not decision.promoted:
            stays = (
                f"version {champion.version} stays champion" if champion else "there is no champion"
            )
            reason = f"{stays}, for {reason}"
        evidence = decision.as_json() | {"rules": self.rules.model_dump(mode="json")}
        # Where nothing was compared the test set is not worn out.
        test_set = answers.digest() if decision.evidence else ""
        return Verdict(outcome, reason, evidence, test_set)  # type: ignore[arg-type]

    def _decision(
        self, answers: Answers, champion: RegisteredVersion | None, number: int
    ) -> Decision:
        mine = fetch_classifier(self.tracking, f"{self.version.name}/{self.version.version}")
        if refusal := self._unfit(mine, champion):
            return Decision(False, refusal)
        learned = _learned(mine, answers)
        assert learned is not None
        if champion is None:
            return self._as_first(mine, answers, number, learned)
        theirs = fetch_classifier(self.tracking, f"{champion.name}/{champion.version}")
        comparable = set(read_card(theirs).class_names) == set(answers.class_names)
        if refusal := self._refusal(champion, comparable=comparable):
            return Decision(False, refusal)
        if not comparable:
            return self._as_first(mine, answers, number, learned)
        also = _learned(theirs, answers)
        if also is None:
            return Decision(False, "nobody knows which of these pictures that has learned from")
        contents = self._contents(answers.ids.tolist())
        models = [Classifier.load(folder) for folder in (mine, theirs)]
        challenger, incumbent = ask(models, answers, contents)
        return judge(challenger, incumbent, self.rules, number=number, learned=learned | also)

    def _unfit(self, folder: Path, champion: RegisteredVersion | None) -> str:
        """Why it cannot be champion, whatever it recognizes; empty if it can."""
        if not (told := self.version.tags.get(PARITY)) or not Parity(**json.loads(told)).holds:
            return "nobody has seen that it answers the same wherever it is loaded; train it again"
        if read_trained_on(folder) is None:
            return "what it began with may have learned from pictures that judge it, and nobody knows which"
        megabytes = (folder / WEIGHTS).stat().st_size / 1e6
        if 0 < self.rules.most_megabytes < megabytes:
            return (
                f"its weights take {megabytes:,.1f} MB, and promote.most_megabytes allows "
                f"{self.rules.most_megabytes:g}"
            )
        if self.rules.most_milliseconds:
            return self._too_slow(folder, champion)
        return ""

    def _too_slow(self, folder: Path, champion: RegisteredVersion | None) -> str:
        models = [Classifier.load(folder)]
        if champion:
            theirs = fetch_classifier(self.tracking, f"{champion.name}/{champion.version}")
            models.append(Classifier.load(theirs))
        some = [
            torch.zeros(1, *np.roll(one.card.stored_shape, 1), dtype=torch.uint8) for one in models
        ]
        (mine, _), *others = time_in_turns(models, some)
        if mine <= self.rules.most_milliseconds:
            return ""
        beside = f" (the champion {others[0][0]:.2f})" if others else ""
        return (
            f"one picture takes it {mine:.2f} ms{beside}, and promote.most_milliseconds allows "
            f"{self.rules.most_milliseconds:g}"
        )

    def _as_first(
        self, folder: Path, answers: Answers, number: int, learned: npt.NDArray[np.bool_]
    ) -> Decision:
        trained: list[int] = self._workflow_file(DATA)["class_counts"]
        balanced = bool(read_card(folder).log_priors)
        return judge_first(answers, trained, number=number, learned=learned, balanced=balanced)

    def _refusal(self, champion: RegisteredVersion, *, comparable: bool) -> str:
        """Why it is not even compared with the champion; empty if it is."""
        if champion.version == self.version.version:
            return "it is champion already"
        if self.accept_new_data:
            return ""
        command = f"imgrec promote {self.version.name} {ACCEPT}"
        if not comparable:
            return f"that knows other classes; {command} lets it be replaced all the same"
        if any(self.version.tags.get(key) != champion.tags.get(key) for key in SAME):
            return f"that was scored on other pictures; {command} compares them on these"
        return ""

    def _recorded_answers(self) -> Answers:
        """What it said when it was trained: which pictures are asked about, and what they show."""
        with tempfile.TemporaryDirectory(prefix="imgrec-") as folder:
            file = fetch_file(self.tracking, self.version.run_id, ANSWERS, Path(folder))
            if file is None:
                msg = (
                    f"{self.version.name}/{self.version.version}: an earlier imgrec trained it and kept no answers; "
                    f"train it again"
                )
                raise TrackingError(msg)
            return Answers.load(file)

    def _contents(self, ids: Sequence[str]) -> list[Content]:
        """The test pictures, where they lie."""
        data = checked(DataConfig, "data", self._workflow_file(SETTINGS)["data"])
        source = open_source(data, self.storage / "downloads")
        content_of = {one.id: one.content for one in list_samples(source, data)}
        if gone := [one for one in ids if one not in content_of]:
            msg = (
                f"{data.source}: {len(gone):,} of the {len(ids):,} test pictures are not there any more (such as "
                f"{gone[0]}), so they cannot judge; train again with what there is"
            )
            raise DataError(msg)
        return [content_of[one] for one in ids]

    def _workflow_file(self, name: str) -> dict[str, Any]:
        """A file of the run that the version's own run stands below."""
        run = find_run(self.tracking, self.version.run_id)
        with tempfile.TemporaryDirectory(prefix="imgrec-") as folder:
            file = run and run.parent and fetch_file(self.tracking, run.parent, name, Path(folder))
            if not file:
                msg = f"{self.version.name}/{self.version.version}: the run that made it has no {name}; train it again"
                raise TrackingError(msg)
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return content


def ask(
    classifiers: Sequence[Classifier], about: Answers, contents: Sequence[Content]
) -> list[Answers]:
    """Ask each classifier about the pictures now, as it is served; pictures are decoded once if all decode alike.

    Args:
        classifiers: Of the same classes, in any order.
        about: Other answers about these pictures, whose classes, ids and labels are taken.
        contents: The pictures.
    """
    first = classifiers[0]
    if any(one.decoding != first.decoding for one in classifiers):
        return [ask([one], about, contents)[0] for one in classifiers]
    several = itertools.tee(decode_all(contents, first.decoding), len(classifiers))
    said = [one.outcomes(decoded) for one, decoded in zip(classifiers, several, strict=True)]
    sheets = [_AnswerSheet(about) for _ in classifiers]
    # One picture after the other, so that few pixels wait for the second.
    for row, outcomes in zip(range(len(about.labels)), zip(*said, strict=True), strict=True):
        for sheet, outcome in zip(sheets, outcomes, strict=True):
            sheet.fill(row, outcome)
    return [sheet.answers() for sheet in sheets]


class _AnswerSheet:
    """The answers of one classifier, filled one picture at a time; a picture that cannot be read is not recognized."""

    def __init__(self, about: Answers) -> None:
        self._about = about
        self._number_of = {name: number for number, name in enumerate(about.class_names)}
        count = len(about.labels)
        self._predicted, self._confidence = np.full(count, -1), np.zeros(count)
        self._loss = np.full(count, math.log(len(self._number_of)))

    def fill(self, row: int, outcome: Prediction | DecodeError) -> None:
        """Enter the outcome of one picture."""
        if isinstance(outcome, DecodeError):
            return
        self._predicted[row] = self._number_of[outcome.label]
        self._confidence[row] = outcome.probability
        true = outcome.probabilities[self._about.class_names[self._about.labels[row]]]
        self._loss[row] = -math.log(max(true, 1e-12))

    def answers(self) -> Answers:
        """The answers to all pictures."""
        said = self._predicted, self._confidence, self._loss
        about = self._about
        return Answers(about.class_names, about.ids, about.pictures, about.labels, *said)


def _learned(folder: Path, answers: Answers) -> npt.NDArray[np.bool_] | None:
    """Which of the pictures a fetched classifier has learned from; None where that is not known."""
    digests = read_trained_on(folder)
    return None if digests is None else np.isin(answers.pictures, digests)
