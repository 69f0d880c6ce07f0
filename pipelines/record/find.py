"""A run that a person names, of those that have something on record."""

from collections.abc import Callable
from typing import TypeVar

from imgrec.errors import TrackingError
from imgrec.tracking.connection import Tracking
from imgrec.tracking.query import RunRecord, find_runs
from imgrec.tracking.tags import KIND

T = TypeVar("T")


def find_with(
    tracking: Tracking, run: str, read: Callable[[str], T | None], what: str
) -> tuple[RunRecord, T]:
    """A run, and what it has.

    Args:
        tracking: Where it is on record.
        run: Its name, its id or how that begins; the last one that has it where this is empty.
        read: What a run has, by its id; None where it ended before that.
        what: It is, for people.

    Raises:
        TrackingError: there is no such run, or it ended too early.
    """
    records = find_runs(tracking, {KIND: "workflow"})
    chosen = [one for one in records if run in {"", one.name} or (run and one.id.startswith(run))]
    for record in chosen:
        if found := read(record.id):
            return record, found
    if chosen and run:
        msg = f"run {chosen[0].id[:12]} of {chosen[0].name} has no {what}; imgrec runs says how it ended"
    elif run:
        msg = f"{run}: no such run; imgrec runs lists them"
    else:
        msg = f"no run has a {what} yet: imgrec run"
    raise TrackingError(msg)
