"""What was found out about a data set: in a few lines, as a page, as JSON."""

import webbrowser
from contextlib import closing
from pathlib import Path

from rich.text import Text

from imgrec.config import Config
from imgrec.data.findings import Findings
from pipelines.check import check
from pipelines.cli.pages.live import LiveTable
from pipelines.cli.pages.output import make_console, print_json

COLORS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show_check(
    config: Config, *, as_json: bool, quiet: bool, open_page: bool, began: float
) -> None:
    """Scan, and print what was found.

    Args:
        config: Names the data.
        as_json: Print one JSON object.
        quiet: Show no progress.
        open_page: In a browser.
        began: When the command did, by `time.monotonic`.

    Raises:
        DataError: the data cannot be used, or a run would refuse them; the page is there all the
            same where they can be read.
    """
    with closing(LiveTable(quiet=quiet, began=began)) as observer:
        findings, decided, page = check(config, observer)
    if as_json:
        about = {"source": config.data.source, "page": str(page), "decided": decided}
        print_json(about | findings.as_json())
    else:
        _print(findings, decided, page)
    if open_page:
        webbrowser.open(page.as_uri())
    findings.refuse_unusable(config.data.source)


def _print(findings: Findings, decided: list[str], page: Path) -> None:
    console = make_console()
    store = findings.store
    height, width, channels = store.image_shape
    kind = "RGB" if channels == 3 else "grey"
    console.print(
        f"{len(store.labels):,} pictures, {len(store.class_names)} classes, stored as "
        f"{height} x {width} {kind}; fingerprint {store.fingerprint[:16]}"
    )
    for line in findings.understood():
        console.print(Text(f"{'read':8}", style="dim") + Text(line), soft_wrap=True)
    for note in decided:
        console.print(Text(f"{'decided':8}", style="dim") + Text(note), soft_wrap=True)
    for problem in findings.problems:
        level = Text(f"{problem.level:8}", style=COLORS[problem.level])
        console.print(level + Text(problem.text, style="not bold default"), soft_wrap=True)
    if not findings.problems:
        console.print("[green]nothing to complain about[/]")
    console.print(Text(f"page    {page}", style="dim"), soft_wrap=True)
