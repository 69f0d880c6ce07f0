"""What programs read."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from imgrec.config import Config
    from imgrec.tracking.connection import Tracking


WIDTH = 160
"""Columns where there is no terminal to ask: nothing of a table is cut off in a file or a pipe."""


def make_console() -> Console:
    """For a page on standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def say_loading(*, quiet: bool) -> float:
    """Before the imports of a command that takes long: seconds, and many of them on a busy machine.

    Returns:
        When it began, by `time.monotonic`.
    """
    if not quiet:
        sys.stderr.write(f"{0:6.1f} s  loading torch and MLflow\n")
        sys.stderr.flush()
    return time.monotonic()


def titled_table(title: str) -> Table:
    """A table without lines, under a title."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        header_style="dim",
        pad_edge=False,
    )


def open_record(config: "Config") -> "Tracking":
    """The record of earlier runs, for a page; what was done to open it is said on standard error.

    Raises:
        TrackingError: there is none, or it does not answer.
    """
    from imgrec.tracking.connection import connect  # noqa: PLC0415 - a second, for some pages only

    tracking = connect(config.tracking, Path(config.storage), create=False)
    if tracking.note:
        sys.stderr.write(f"imgrec: {tracking.note}\n")
    return tracking


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
