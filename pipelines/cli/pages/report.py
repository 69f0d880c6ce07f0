"""The end of a run, for people: the leaderboard and how to go on."""

import shlex
import sys
from pathlib import Path
from shlex import quote

from rich.table import Table
from rich.text import Text

from imgrec.tracking.place import SQLITE
from imgrec.tracking.tags import RANDOM
from pipelines.cli.pages.output import make_console, titled_table
from pipelines.costs.memory import memory_in_words
from pipelines.costs.timing import in_words
from pipelines.formats import shown
from pipelines.results import Summary, TrainedModel

MOST_NAMED = 10
WORDS = {"model", "begins with"}


def print_report(summary: Summary, log_file: Path) -> None:
    """The leaderboard, the next commands, and where the log is."""
    console = make_console()
    console.print()
    if summary.models:
        console.print(_leaderboard(summary))
        for line in summary.comparison.lines() if summary.comparison else ():
            console.print(Text(line), soft_wrap=True)
        for split, classes in summary.unscored().items():
            some = ", ".join(classes[:MOST_NAMED]) + (", ..." if len(classes) > MOST_NAMED else "")
            text = f"{split} has no picture of {some}: its scores say nothing of that"
            console.print(Text(text, style="yellow"), soft_wrap=True)
        console.print()
    if summary.searches:
        console.print(_tuned(summary))
        console.print()
    lines = [*_next_commands(summary), ("log", str(log_file))]
    if any(not model.taken for model in summary.models):
        rates = {model.arch: _rate(model) for model in summary.models if not model.taken}
        times, limit = in_words(summary.times, rates)
        memory = memory_in_words(summary.memory)
        lines = [("time", times), ("limit", limit), ("memory", memory), *lines]
    for purpose, text in lines:
        console.print(
            Text(f"{purpose:9}", style="dim") + Text(text, style="not dim"), soft_wrap=True
        )


def _leaderboard(summary: Summary) -> Table:
    count = len(summary.models)
    models = f"{count} model{'s' if count > 1 else ''}"
    title = f"{summary.name}: {models} in {summary.seconds:.0f} s"
    table = titled_table(title)
    columns = ["rank", "model", "test accuracy", "95 % interval", "macro-F1", "log loss"]
    columns += ["parameters", "fit", "images/s"]
    # Where all began with random weights there is nothing to tell apart.
    mixed = any(model.begins_with != RANDOM for model in summary.models)
    if mixed:
        columns.insert(2, "begins with")
    for column in columns:
        table.add_column(column, justify="left" if column in WORDS else "right", no_wrap=True)
    for model, standing in summary.standings():
        table.add_row(
            str(standing.rank),
            f"{model.registered_model} v{model.version}{' @champion' if model.champion else ''}",
            *([model.begins_with] if mixed else []),
            f"{standing.accuracy:.4f}",
            f"{standing.accuracy_interval.low:.3f} to {standing.accuracy_interval.high:.3f}",
            f"{standing.macro_f1:.4f}",
            f"{model.test.loss:.4f}",
            f"{model.parameters:,}",
            f"{model.fit_seconds:.1f} s",
            f"{model.images_per_second:,.0f}",
        )
    return table


def _rate(model: TrainedModel) -> str:
    """`212 GFLOP/s`, and on a GPU that is known what share that is of what it could."""
    rate = f"{model.flops_per_second / 1e9:,.0f} GFLOP/s"
    return rate + (f", {model.share_of_peak:.0%} of its peak" if model.share_of_peak else "")


def _tuned(summary: Summary) -> Table:
    """What the searches changed, beside the defaults."""
    table = titled_table("What the searches found")
    for column in ("search", "val macro-F1", "luck, about", "setting", "default", "chosen"):
        table.add_column(column, no_wrap=True)
    for arch, search in summary.searches.items():
        gain = f"{search.best.score:.4f}"
        if search.default is not None:
            gain = f"{search.default:.4f} -> {gain}"
        about = f"{arch}, {search.trials} trials"
        luck = f"{search.optimism(len(summary.splits.choosing)):.4f}"
        if not search.tuned:
            table.add_row(about, gain, luck, "[dim]the defaults were best[/]")
        for key, (default, chosen) in search.tuned.items():
            table.add_row(about, gain, luck, key, shown(default), shown(chosen))
            about = gain = luck = ""
    return table


def _next_commands(summary: Summary) -> list[tuple[str, str]]:
    local = Path("mlruns/mlflow.db").absolute()
    elsewhere = summary.tracking_uri != f"{SQLITE}{local}"
    where = f" --set tracking.uri={quote(summary.tracking_uri)}" if elsewhere else ""
    look = ("look", f"uv run imgrec ui{where}")
    if not summary.models and not summary.searches:
        return [look]
    if not summary.models:
        # The same words train with what was found: the search is taken from the record.
        words = [
            word for word in sys.argv[2:] if word not in {"--fresh", "--json", "--quiet", "-q"}
        ]
        if not any(word.startswith(("--trials", "--budget")) for word in words):
            trials = max(search.trials for search in summary.searches.values())
            words += ["--trials", str(trials)]
        return [look, ("train", shlex.join(["uv", "run", "imgrec", "run", *words]))]
    best = summary.models[0].registered_model
    return [
        look,
        ("report", f"uv run imgrec report {summary.run_id[:12]} --open{where}"),
        ("predict", f"uv run imgrec predict {best} FILE...{where}"),
        ("serve", f"uv run imgrec serve{where}"),
    ]
