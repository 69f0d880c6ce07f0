"""Who is champion, by which decisions, and how to change that."""

import datetime as dt
import shlex
import sys
from pathlib import Path

from rich.table import Table

from imgrec.config import Config
from imgrec.errors import TrackingError, TrainingError
from imgrec.tracking.promotion import Recorded, decisions, roll_back
from imgrec.tracking.versions import find_challenger
from pipelines.cli.pages.output import make_console, open_record, print_json
from pipelines.promote import promote


def show_promotion(
    config: Config, name: str, version: int, *, accept_new_data: bool, as_json: bool
) -> None:
    """Judge a version, and say what came of it.

    Raises:
        TrainingError: it does not become champion.
    """
    tracking = open_record(config)
    challenger = find_challenger(tracking, name, version)
    verdict, after = promote(
        tracking,
        Path(config.storage),
        challenger,
        config.promote,
        _command(),
        accept_new_data=accept_new_data,
    )
    said = f"{name} version {challenger.version}: {verdict.outcome}; {verdict.reason}"
    if as_json:
        about = {"registered_model": name, "version": after.version, "outcome": verdict.outcome}
        about |= {"champion": after.champion_version, "reason": verdict.reason}
        print_json(about | {"evidence": dict(verdict.evidence)})
    elif verdict.outcome == "promoted":
        make_console().print(said, soft_wrap=True)
    if verdict.outcome == "refused":
        raise TrainingError(said)


def show_rollback(config: Config, name: str, *, as_json: bool) -> None:
    """Go back to the champion before."""
    before, after = roll_back(open_record(config), name, _command())
    if as_json:
        print_json({"registered_model": name, "before": int(before), "champion": int(after)})
        return
    make_console().print(
        f"{name}: version {after} is champion again, and no longer version {before}"
    )


def show_history(config: Config, name: str, *, as_json: bool) -> None:
    """Print every decision about a model, newest first.

    Raises:
        TrackingError: there is none.
    """
    tracking = open_record(config)
    history = decisions(tracking, name)
    if not history:
        find_challenger(tracking, name)  # which says what there is, where it is no such name
        msg = f"{name}: nothing was decided about it yet: imgrec promote {name}"
        raise TrackingError(msg)
    if as_json:
        print_json({"registered_model": name, "decisions": [_as_json(one) for one in history]})
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("when", "version", "", "before", "why", "asked by"):
        table.add_column(column, overflow="fold")
    for one in history:
        table.add_row(_when(one), one.version, one.outcome, one.before, one.reason, one.asked_by)
    make_console().print(table)


def _as_json(one: Recorded) -> dict[str, object]:
    return {
        "when": _when(one),
        "version": int(one.version),
        "outcome": one.outcome,
        "before": int(one.before) if one.before else None,
        "reason": one.reason,
        "asked_by": one.asked_by,
        "run_id": one.run_id,
    }


def _when(one: Recorded) -> str:
    return f"{dt.datetime.fromtimestamp(one.when).astimezone():%Y-%m-%d %H:%M}"


def _command() -> str:
    return shlex.join(["imgrec", *sys.argv[1:]])
