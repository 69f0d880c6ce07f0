"""The commands that look at pictures, and bring weights: check, preview, fetch."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    ConfigFile,
    Data,
    Json,
    Quiet,
    Set,
)
from pipelines.cli.pages.output import say_loading
from pipelines.request import (
    load_settings,
    refuse_missing_data,
)


def check(
    path: Annotated[str, typer.Argument(help="What data.source takes: a folder, a table, ...")],
    config: Annotated[Path | None, typer.Option(help="Settings as TOML.")] = None,
    settings: Set = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Scan a data set and say what is wrong with it, before anything is spent."""
    whole = load_settings(config, path, settings=settings)
    refuse_missing_data(whole)
    began = say_loading(quiet=quiet)
    from pipelines.cli.pages.findings import show_check  # noqa: PLC0415

    show_check(whole, as_json=as_json, quiet=quiet, open_page=open_page, began=began)


def preview(
    config: ConfigFile = None,
    data: Data = None,
    arch: Annotated[str, typer.Option("--arch", help="Whose recipe to show.")] = "cnn",
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("preview.png"),
    settings: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw what the model will see: originals, filtered and augmented pictures."""
    whole = load_settings(config, data, [arch], settings)
    refuse_missing_data(whole)
    began = say_loading(quiet=quiet)
    from pipelines.cli.pages.preview import show_preview  # noqa: PLC0415

    show_preview(whole, out, as_json=as_json, quiet=quiet, began=began)


def fetch(
    names: Annotated[list[str], typer.Argument(help="Networks of timm's: resnet18, ...")],
    to: Annotated[
        Path | None, typer.Option(help="Folder for pretrained.folder; else the hub's cache.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring weights from the Hugging Face hub for later, such as for machines without a network."""
    from pipelines.cli.pages.fetch import show_fetch  # noqa: PLC0415

    show_fetch(names, to, as_json=as_json)
