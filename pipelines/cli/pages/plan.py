"""What a run would do, as a table."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict

from rich.table import Table

from imgrec.config import Config
from pipelines.cli.pages.live import LiveTable
from pipelines.cli.pages.output import make_console, print_json
from pipelines.formats import duration, size
from pipelines.plan import LATER, Stage, plan


def show_plan(config: Config, *, fresh: bool, as_json: bool, quiet: bool) -> None:
    """Print the stages."""
    with closing(LiveTable(quiet=quiet)) as observer:
        stages = plan(config, observer, fresh=fresh)
    if as_json:
        print_json({"name": config.name, "stages": [asdict(stage) for stage in stages]})
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("stage", "", "state", "time", "disk", ""):
        justify = "right" if column in {"time", "disk"} else "left"
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for stage in stages:
        left = stage.state != "done"
        table.add_row(
            stage.name,
            stage.arch,
            {"done": "[green]done[/]", "goes on": "[cyan]goes on[/]"}.get(stage.state, stage.state),
            f"about {duration(stage.seconds)}" if left and stage.seconds >= 1 else "",
            size(stage.disk) if left and stage.disk else "",
            f"[dim]{stage.note}[/]",
        )
    seconds, disk = sum(s.seconds for s in stages), sum(s.disk for s in stages)
    console = make_console()
    console.print(table)
    unknown = ", and what is known when the pictures are decoded" if _is_unknown(stages) else ""
    console.print(
        f"\nabout {duration(seconds)} and {size(disk)} of disk{unknown}; nothing was started"
    )


def _is_unknown(stages: Iterable[Stage]) -> bool:
    return any(stage.note == LATER for stage in stages)
