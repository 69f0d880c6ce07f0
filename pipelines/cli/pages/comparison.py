"""The models of a run beside each other."""

from rich.table import Table
from rich.text import Text

from imgrec.config import Config
from imgrec.evaluation.comparison import Comparison
from imgrec.evaluation.comparison_page import scored
from pipelines.cli.pages.output import make_console, open_record, print_json, titled_table
from pipelines.compare import find_compared


def show_comparison(config: Config, run: str, *, as_json: bool) -> None:
    """Print which model of a run is better, and whether that can be told."""
    tracking = open_record(config)
    record, comparison = find_compared(tracking, run)
    if as_json:
        about = {"tracking_uri": tracking.uri, "run_id": record.id, "name": record.name}
        print_json(about | comparison.as_json())
        return
    console = make_console()
    console.print(_table(comparison, f"{record.name}, run {record.id[:12]}"))
    console.print()
    for line in comparison.lines():
        console.print(Text(line), soft_wrap=True)


def _table(comparison: Comparison, name: str) -> Table:
    table = titled_table(f"{name}: {comparison.pictures:,} test pictures, 95 % intervals")
    for column in ("rank", "model", "begins with", "accuracy", "macro-F1"):
        table.add_column(column, no_wrap=True)
    for one in comparison.standings:
        table.add_row(
            str(one.rank),
            one.name,
            one.begins_with,
            scored(one.accuracy, one.accuracy_interval),
            scored(one.macro_f1, one.macro_f1_interval),
        )
    return table
