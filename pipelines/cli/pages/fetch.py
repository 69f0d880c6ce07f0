"""Weights that were brought."""

from pathlib import Path

from imgrec.models.sources import fetch
from pipelines.cli.pages.output import make_console, print_json
from pipelines.formats import size


def show_fetch(names: list[str], folder: Path | None, *, as_json: bool) -> None:
    """Fetch each, and print where it lies.

    Raises:
        ConfigError: one cannot be fetched; those before it are there.
    """
    files = {name: fetch(name, folder and folder.absolute()) for name in names}
    if as_json:
        print_json({"weights": {name: str(file) for name, file in files.items()}})
        return
    console = make_console()
    for name, file in files.items():
        console.print(f"{name}: {size(file.stat().st_size)} in {file}", soft_wrap=True)
