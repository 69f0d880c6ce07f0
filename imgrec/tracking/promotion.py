"""Who is champion, and every decision about it: on record for ever, each as a run of its own.

The rules are in `evaluation.gate`; this carries out what they say.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote

from imgrec.errors import TrackingError
from imgrec.tracking.connection import Tracking
from imgrec.tracking.describe import describe
from imgrec.tracking.liveness import owner_tags
from imgrec.tracking.query import RunRecord, find_run, find_runs
from imgrec.tracking.runs import Run, start_run, user_name
from imgrec.tracking.tags import (
    ASKED_BY,
    BEFORE,
    DECIDED_BY,
    DECISION,
    KIND,
    MODEL,
    OUTCOME,
    REASON,
    TEST_SET,
    VERSION,
)
from imgrec.tracking.turns import one_at_a_time
from imgrec.tracking.versions import (
    CHALLENGER,
    CHAMPION,
    RegisteredVersion,
    champion_of,
    registered,
)

FILE = "decision.json"
Outcome = Literal["promoted", "refused", "rolled back"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done about a version, and why.

    Attributes:
        outcome: Whether it becomes champion.
        reason: For people, in one line.
        evidence: For programs.
        test_set: Hash of the pictures that decided; empty where none did.
    """

    outcome: Outcome
    reason: str
    evidence: Mapping[str, Any]
    test_set: str = ""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A decision as the record has it.

    Attributes:
        run_id: Of the decision.
        version: Which became champion, or was refused.
        before: The champion until then; empty where there was none.
        outcome: What was decided; `interrupted` where the process died before it was carried out.
        when: Seconds since 1970.
        asked_by: Who, and what they typed.
    """

    run_id: str
    version: str
    before: str
    outcome: str
    reason: str
    when: float
    asked_by: str

    @classmethod
    def of(cls, record: RunRecord) -> "Recorded":
        """From the run."""
        tags = record.tags
        done = record.status == "FINISHED"
        return cls(
            run_id=record.id,
            version=tags.get(VERSION, ""),
            before=tags.get(BEFORE, ""),
            outcome=tags.get(OUTCOME, "") if done else "interrupted",
            reason=tags.get(REASON, ""),
            when=record.started,
            asked_by=tags.get(ASKED_BY, ""),
        )


def decide(
    tracking: Tracking,
    version: RegisteredVersion,
    verdict_on: Callable[[RegisteredVersion | None], Verdict],
    command: str,
) -> tuple[Verdict, RegisteredVersion]:
    """Decide about a version, record it, and move the aliases; one process at a time for each model.

    What was decided, and the version with the champion after it.

    Args:
        tracking: Where it is registered.
        version: Which.
        verdict_on: Told the champion, or None, says what is to be done.
        command: What the user typed.

    Raises:
        TrackingError: MLflow does not answer; then nothing has changed, or the record says what did.
    """
    with _turn(tracking, version) as experiment:
        champion = _champion(tracking, version.name)
        verdict = verdict_on(champion)
        about = {
            VERSION: str(version.version),
            **({BEFORE: str(champion.version)} if champion else {}),
            OUTCOME: verdict.outcome,
            REASON: verdict.reason,
            **({TEST_SET: verdict.test_set} if verdict.test_set else {}),
        }
        title = f"{version.name} version {version.version} {verdict.outcome}"
        with _record(tracking, experiment, version.name, title, about, command) as run:
            run.log_dict(dict(verdict.evidence) | {"reason": verdict.reason}, FILE)
            run.log_metrics(_numbers(verdict.evidence))
            run.describe(_told(title, verdict.reason, version.name, str(version.version)))
            _carry_out(tracking, version, champion, verdict, run.id)
    leads = champion.version if champion else 0
    after = version.version if verdict.outcome == "promoted" else leads
    return verdict, replace(_with_reason(version, verdict.reason), champion_version=after)


def roll_back(tracking: Tracking, name: str, command: str) -> tuple[str, str]:
    """Make the version champion that was so before the last promotion; the versions before and after.

    Raises:
        TrackingError: there is none, or it is gone.
    """
    champion = _champion(tracking, name)
    if champion is None:
        msg = f"{name}: has no champion; imgrec models lists what there is"
        raise TrackingError(msg)
    with _turn(tracking, champion) as experiment:
        champion = _champion(tracking, name) or champion
        to = _before(decisions(tracking, name), str(champion.version))
        if not to:
            msg = f"{name}: version {champion.version} was the first champion; there is none to go back to"
            raise TrackingError(msg)
        with tracking.answering():
            target = registered(tracking.client.get_model_version(name, to), None)
        reason = f"version {champion.version} is taken back"
        about = {VERSION: to, BEFORE: str(champion.version), OUTCOME: "rolled back", REASON: reason}
        title = f"{name} rolled back to version {to}"
        with _record(tracking, experiment, name, title, about, command) as run:
            run.describe(_told(title, reason, name, to))
            verdict = Verdict("rolled back", reason, {})
            _carry_out(tracking, target, champion, verdict, run.id)
    return str(champion.version), to


def decisions(tracking: Tracking, name: str) -> list[Recorded]:
    """Every decision about a model, newest first."""
    return [Recorded.of(run) for run in find_runs(tracking, {KIND: DECISION, MODEL: name})]


def decisions_on(tracking: Tracking, name: str, test_set: str) -> int:
    """How many decisions about a model these test pictures have made."""
    return len(find_runs(tracking, {KIND: DECISION, MODEL: name, TEST_SET: test_set}))


def _numbers(evidence: Mapping[str, Any]) -> dict[str, float]:
    """What a decision rests on, as metrics of its run; nothing where nothing was compared."""
    return {
        name: float(value)
        for name, value in (evidence.get("evidence") or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _told(title: str, reason: str, name: str, version: str) -> str:
    """What a decision's page says; the address is one of the pages of the MLflow UI."""
    return f"**{title}**: {reason}.\n\n[{name} version {version}](#/models/{quote(name)}/versions/{version})"


def _champion(tracking: Tracking, name: str) -> RegisteredVersion | None:
    version = champion_of(tracking, name)
    return registered(version, version) if version else None


def _before(history: list[Recorded], version: str) -> str:
    """The champion before this one became so; going back twice goes back two steps."""
    promotions = (one for one in history if one.outcome == "promoted")
    return next((one.before for one in promotions if one.version == version), "")


@contextmanager
def _turn(tracking: Tracking, version: RegisteredVersion) -> Iterator[str]:
    """Inside nobody else decides about this model; the id of the experiment that its run is in."""
    run = find_run(tracking, version.run_id)
    if run is None:
        msg = f"{version.name}/{version.version}: the run that made it is gone, so nothing can be decided about it"
        raise TrackingError(msg)
    with tracking.answering():
        experiment = tracking.client.get_experiment(run.experiment).name
    with one_at_a_time(tracking, experiment, f"promote-{version.name}"):
        yield experiment


@contextmanager
def _record(
    tracking: Tracking,
    experiment: str,
    name: str,
    title: str,
    about: Mapping[str, str],
    command: str,
) -> Iterator[Run]:
    """A run for the decision: until it ends, it counts as interrupted."""
    asked_by = f"{user_name()}: {command}"
    tags = {KIND: DECISION, MODEL: name, ASKED_BY: asked_by, **about, **owner_tags()}
    with start_run(tracking, experiment, title, tags) as run:
        yield run


def _carry_out(
    tracking: Tracking,
    version: RegisteredVersion,
    champion: RegisteredVersion | None,
    verdict: Verdict,
    run_id: str,
) -> None:
    client, name, number = tracking.client, version.name, str(version.version)
    with tracking.answering():
        if verdict.outcome != "refused":
            client.set_registered_model_alias(name, CHAMPION, number)
            aliases = client.get_registered_model(name).aliases
            if str(aliases.get(CHALLENGER, "")) == number:
                client.delete_registered_model_alias(name, CHALLENGER)
        told = {number: verdict.reason}
        if champion and verdict.outcome != "refused" and str(champion.version) != number:
            told[str(champion.version)] = f"version {number} became champion"
        for one, text in told.items():
            client.set_model_version_tag(name, one, REASON, text)
            client.set_model_version_tag(name, one, DECIDED_BY, run_id)
    now = _with_reason(version, verdict.reason)
    if verdict.outcome == "refused":
        describe(tracking, now, champion)
        return
    if champion and champion.version != version.version:
        describe(tracking, _with_reason(champion, told[str(champion.version)]), now)
    describe(tracking, now, now)


def _with_reason(version: RegisteredVersion, reason: str) -> RegisteredVersion:
    return replace(version, tags=version.tags | {REASON: reason})
