"""The commands that look at the record: runs, compare, models, promote, predict, ui, ..."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    ConfigFile,
    Json,
    Quiet,
    Set,
)
from pipelines.request import (
    load_settings,
)

ModelName = Annotated[str, typer.Argument(help="Name of a registered model, such as digits-cnn.")]
MlflowSettings = Annotated[
    Path | None, typer.Option("--config", help="Settings that name the MLflow.")
]


def runs(config: ConfigFile = None, settings: Set = None, as_json: Json = False) -> None:
    """List runs with their state and best scores, and how to go on with those that did not end."""
    from pipelines.cli.pages.runs import show_runs  # noqa: PLC0415

    show_runs(load_settings(config, settings=settings), as_json=as_json)


def compare(
    run: Annotated[
        str, typer.Argument(help="Name or id of a run; the last one without.", show_default=False)
    ] = "",
    config: MlflowSettings = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Say which model of a run is better, with intervals, and whether that can be told."""
    from pipelines.cli.pages.comparison import show_comparison  # noqa: PLC0415

    show_comparison(load_settings(config, settings=settings), run, as_json=as_json)


def report(
    run: Annotated[
        str, typer.Argument(help="Name or id of a run; the last one without.", show_default=False)
    ] = "",
    language: Annotated[str, typer.Option(help="en or zh.")] = "en",
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: NAME-report.html here.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    config: MlflowSettings = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run as one page: which model is better, what it costs, what it gets wrong."""
    from pipelines.cli.pages.report_page import write_report  # noqa: PLC0415

    loaded = load_settings(config, settings=settings)
    write_report(loaded, run, language=language, out=out, show=show, as_json=as_json)


ModelVersion = Annotated[
    str, typer.Argument(help="digits-cnn (its champion), digits-cnn@alias or digits-cnn/3.")
]


def why(
    model: ModelVersion,
    check: Annotated[
        bool, typer.Option("--check", help="Ask it now, also over HTTP, and compare its answers.")
    ] = False,
    config: MlflowSettings = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Say where a model comes from: data, settings, code, scores, decisions, and the command that made it."""
    from pipelines.cli.pages.lineage import show_lineage  # noqa: PLC0415

    show_lineage(load_settings(config, settings=settings), model, check=check, as_json=as_json)


def reproduce(
    model: ModelVersion,
    config: MlflowSettings = None,
    settings: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model again from its record, and say whether the weights are the same; status 3 if not."""
    from pipelines.cli.pages.reproduction import show_reproduction  # noqa: PLC0415

    loaded = load_settings(config, settings=settings)
    show_reproduction(loaded, model, as_json=as_json, quiet=quiet)


def models(config: ConfigFile = None, settings: Set = None, as_json: Json = False) -> None:
    """List the registered models, newest version first."""
    from pipelines.cli.pages.models import show_models  # noqa: PLC0415

    show_models(load_settings(config, settings=settings), as_json=as_json)


def promote(
    name: ModelName,
    version: Annotated[int, typer.Option(min=1, help="Which; without, the challenger.")]
    | None = None,
    accept_new_data: Annotated[
        bool, typer.Option("--accept-new-data", help="Over a champion of other data, too.")
    ] = False,
    config: MlflowSettings = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Make a version champion if it has earned it, on the same test pictures; status 3 if not."""
    from pipelines.cli.pages.promotion import show_promotion  # noqa: PLC0415

    loaded = load_settings(config, settings=settings)
    show_promotion(loaded, name, version or 0, accept_new_data=accept_new_data, as_json=as_json)


def rollback(
    name: ModelName, config: MlflowSettings = None, settings: Set = None, as_json: Json = False
) -> None:
    """Make the version champion that was so before."""
    from pipelines.cli.pages.promotion import show_rollback  # noqa: PLC0415

    show_rollback(load_settings(config, settings=settings), name, as_json=as_json)


def history(
    name: ModelName, config: MlflowSettings = None, settings: Set = None, as_json: Json = False
) -> None:
    """List every decision about who is champion, with its reason."""
    from pipelines.cli.pages.promotion import show_history  # noqa: PLC0415

    show_history(load_settings(config, settings=settings), name, as_json=as_json)


def predict(
    model: Annotated[
        str,
        typer.Argument(
            help="digits-cnn (its champion), digits-cnn@alias, digits-cnn/3, models:/digits-cnn/3 or a folder."
        ),
    ],
    files: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, folders of them, patterns, - for standard input, or what --data takes: tables, archives, URLs."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="A .parquet, .csv or .jsonl file for the answers; goes on after a kill."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="With --out: most probable classes of each.")] = 5,
    priors: Annotated[
        str,
        typer.Option(
            help="How frequent classes are where the pictures come from: cat=0.9,dog=0.1, or even.",
            show_default=False,
        ),
    ] = "",
    config: MlflowSettings = None,
    settings: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what is in pictures, with a registered model."""
    from pipelines.cli.pages.found import finding  # noqa: PLC0415

    with finding(partial(load_settings, config, settings=settings), model) as (loaded, find):
        from pipelines.cli.pages.predictions import show_predictions  # noqa: PLC0415 - beside it

        show_predictions(
            loaded,
            model,
            find,
            files,
            priors=priors,
            out=out,
            top=top,
            as_json=as_json,
            quiet=quiet,
        )


def export(
    model: ModelVersion,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx or torch: one graph from uint8 pixels on; folder: for imgrec serve without MLflow.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where to. Default: a name after the model, in this folder.")
    ] = None,
    config: MlflowSettings = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Write a model for other programs, held to its golden pictures."""
    from pipelines.cli.pages.found import finding  # noqa: PLC0415

    with finding(partial(load_settings, config, settings=settings), model) as (_, find):
        from pipelines.cli.pages.exported import export_model  # noqa: PLC0415 - beside it

        export_model(find, model, form, out, as_json=as_json)


def serve(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="As predict takes them: digits-cnn, digits-cnn@alias, digits-cnn/3, or folders. Default: every champion.",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Where to listen; beyond this machine set IMGREC_TOKEN.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
    config: MlflowSettings = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Answer over HTTP: a page, POST /v1/models/NAME/predict, the Open Inference Protocol."""
    from pipelines.cli.pages.server import serve_models  # noqa: PLC0415

    said = {"serve.host": host, "serve.port": port}
    changes = [f"{key}={json.dumps(one)}" for key, one in said.items() if one is not None]
    loaded = load_settings(config, settings=[*changes, *(settings or [])])
    serve_models(loaded, names or [], as_json=as_json)


def ui(
    config: ConfigFile = None,
    settings: Set = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow UI on the record of this folder."""
    from pipelines.cli.pages.ui import serve_ui  # noqa: PLC0415

    serve_ui(load_settings(config, settings=settings), port)
