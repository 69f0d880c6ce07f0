"""A data set looked at before anything is spent on it: in a few lines, as a page, as JSON."""

import webbrowser
from pathlib import Path

from rich.console import Console
from rich.text import Text

from imgrec.config import Config
from imgrec.data.findings import Findings
from imgrec.data.store import prepare_store
from imgrec.evaluation.data_page import data_page
from imgrec.tracking.connection import connect
from imgrec.tracking.runs import start_run
from imgrec.tracking.tags import KIND
from pipelines.cli.pages.live import Display
from pipelines.cli.pages.output import print_json
from pipelines.record.entries import record_data

COLORS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show_check(config: Config, *, as_json: bool, quiet: bool, open_page: bool) -> None:
    """Scan, print what was found, write the page, and keep it in MLflow.

    Raises:
        DataError: the data cannot be used, or a run would refuse them; the page is there all the
            same where they can be read.
    """
    with Display(quiet=quiet) as display:
        display.stage("data")
        store = prepare_store(config.data, Path(config.storage), progress=display.progress)
        findings = Findings(store, config.data.allow_leakage)
        page = Path(config.storage) / "checks" / f"{config.name}-{store.folder.name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(data_page(findings, config.data.source), encoding="utf-8")
        display.stage("tracking")
        tracking = connect(config.tracking, Path(config.storage), create=True)
        experiment = config.tracking.experiment or config.name
        name = f"{config.name} data"
        with start_run(tracking, experiment, name, {KIND: "check"}) as run:
            record_data(run, findings, page)
    if as_json:
        print_json({"source": config.data.source, "page": str(page)} | findings.as_json())
    else:
        _print(findings, page)
    if open_page:
        webbrowser.open(page.as_uri())
    findings.refuse_unusable(config.data.source)


def _print(findings: Findings, page: Path) -> None:
    console = Console(highlight=False)
    store = findings.store
    height, width, channels = store.image_shape
    kind = "RGB" if channels == 3 else "grey"
    console.print(
        f"{len(store.labels):,} pictures, {len(store.class_names)} classes, stored as "
        f"{height} x {width} {kind}; fingerprint {store.fingerprint[:16]}"
    )
    for problem in findings.problems:
        level = Text(f"{problem.level:8}", style=COLORS[problem.level])
        console.print(level + Text(problem.text, style="not bold default"), soft_wrap=True)
    if not findings.problems:
        console.print("[green]nothing to complain about[/]")
    console.print(Text(f"page    {page}", style="dim"), soft_wrap=True)
