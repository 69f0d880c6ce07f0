"""The runs on record: how each ended, what came of it, and how to go on with it."""

import datetime as dt
from typing import Any

from rich.markup import escape

from imgrec.config import ARCHS, Config
from imgrec.tracking.connection import Tracking
from imgrec.tracking.liveness import close_dead_runs
from imgrec.tracking.query import RunRecord, find_runs
from imgrec.tracking.tags import ARCH, COMMAND, DONE, KIND, STATE
from pipelines.cli.pages.output import make_console, open_record, print_json

STATES = {"FINISHED": "finished", "RUNNING": "running", "FAILED": "failed", "KILLED": "interrupted"}
BEST = "best_val_macro_f1"
COLORS = {"finished": "green", "running": "cyan", "failed": "red", "interrupted": "yellow"}


def show_runs(config: Config, *, as_json: bool) -> None:
    """Print every run, newest first; those whose process was killed are closed on the way."""
    tracking = open_record(config)
    close_dead_runs(tracking)
    records = [run for kind in ("workflow", "tune") for run in find_runs(tracking, {KIND: kind})]
    records.sort(key=lambda record: -record.started)
    ours = [record for record in records if record.status in STATES]
    rows = [_row(tracking, record) for record in ours]
    others = len(records) - len(ours) + sum(row.pop("not_ours") for row in rows)
    if as_json:
        print_json({"tracking_uri": tracking.uri, "runs": rows, "not_ours": others})
        return
    console = make_console()
    for row in rows:
        color = COLORS[row["state"]]
        console.print(
            f"[dim]{row['started']}[/]  [bold]{escape(row['name'])}[/]  [{color}]{row['state']}[/]  "
            f"[dim]run {row['run_id'][:12]}[/]",
            soft_wrap=True,
        )
        for branch in row["models"]:
            score = branch["test_macro_f1"]
            shown = branch["state"] if score is None else f"test macro-F1 {score:.4f}"
            console.print(f"    {branch['arch']:12} {shown}", soft_wrap=True)
        for search in row["searches"]:
            console.print(
                f"    {search['arch']:12} search: {search['trials']} trials, best val macro-F1 "
                + ("none" if search["best"] is None else f"{search['best']:.4f}"),
                soft_wrap=True,
            )
        if row["command"] and row["state"] in {"interrupted", "failed"}:
            console.print(f"    go on with: {escape(row['command'])}", soft_wrap=True)
    if others:
        console.print(f"[dim]{others} more have imgrec's marks, but somebody else wrote them[/]")
    if not rows:
        console.print("nothing has been run yet: imgrec run")


def _row(tracking: Tracking, record: RunRecord) -> dict[str, Any]:
    children = find_runs(tracking, {}, parent=record.id)
    marked = [child for child in children if child.tags.get(KIND) in {"model", "search"}]
    children = [child for child in marked if child.tags.get(ARCH) in ARCHS]
    models = [child for child in children if child.tags.get(KIND) == "model"]
    searches = [child for child in children if child.tags.get(KIND) == "search"]
    return {
        "run_id": record.id,
        "name": record.name,
        "state": STATES[record.status],
        "started": f"{dt.datetime.fromtimestamp(record.started).astimezone():%Y-%m-%d %H:%M}",
        "command": record.tags.get(COMMAND, ""),
        "models": [
            {
                "arch": model.tags[ARCH],
                "state": "registered" if model.tags.get(DONE) == "register" else "unfinished",
                "test_macro_f1": model.metrics.get("test/macro_f1"),
            }
            for model in models
        ],
        "searches": [_search_row(tracking, search) for search in searches],
        "not_ours": len(marked) - len(children),
    }


def _search_row(tracking: Tracking, search: RunRecord) -> dict[str, Any]:
    trials = find_runs(tracking, {KIND: "trial"}, parent=search.id)
    scored = [trial for trial in trials if BEST in trial.metrics]
    # As in `best_of`: what was stopped early is not the best beside what was trained to its end.
    scored = [trial for trial in scored if trial.tags.get(STATE) == "finished"] or scored
    best = max((trial.metrics[BEST] for trial in scored), default=None)
    return {"arch": search.tags[ARCH], "trials": len(trials), "best": best}
