"""What is wrong with this machine or a cluster, line by line."""

from contextlib import closing
from dataclasses import asdict

from rich.text import Text

from pipelines.cli.pages.live import LiveTable
from pipelines.cli.pages.output import make_console, print_json
from pipelines.doctor import examine_all
from pipelines.request import Request

COLORS = {"ok": "green", "warning": "yellow", "error": "bold red"}


def show_doctor(request: Request, address: str, *, as_json: bool, quiet: bool) -> int:
    """Print what was found, with the cure.

    Returns:
        The exit status: 2 where a run would fail.
    """
    with closing(LiveTable(quiet=quiet)) as observer:
        findings = examine_all(request, address, observer)
    if as_json:
        print_json({"findings": [asdict(one) for one in findings]})
    else:
        console = make_console()
        for one in findings:
            level = Text(f"{one.level:8}", style=COLORS[one.level])
            console.print(
                level + Text(f"{one.what}: {one.text}", style="not bold default"), soft_wrap=True
            )
    return 2 if any(one.level == "error" for one in findings) else 0
