"""The command line.

Nothing heavy is imported here: torch, ray and mlflow cost seconds, and `--help` should not.
"""

import json
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from imgrec import __version__
from imgrec.errors import ConfigError, ImgrecError, TrainingError, disk_failure

if TYPE_CHECKING:
    from imgrec.config import Config

DIGITS = Path(__file__).parent / "configs" / "digits.toml"
INTERRUPTED = 130
TUNE_TRIALS = 20
APP: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(help="Train, compare, register and serve image recognizers.", **APP)
submit = typer.Typer(
    help="The same run, train or tune as a job of a Ray cluster; leave it, and rejoin it.", **APP
)
app.add_typer(submit, name="submit")

ConfigFile = Annotated[
    Path | None, typer.Argument(help="Settings as TOML. Default: the bundled digits.")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="A folder of class folders, .csv, .parquet, .tar, torchvision:NAME or a URL."
    ),
]
Name = Annotated[str | None, typer.Option(help="First part of the names of the models.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: train.epochs=20. Repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
OneArch = Annotated[str, typer.Option("--arch", help="ann, cnn, rnn or transformer.")]
Trials = Annotated[
    int | None, typer.Option(help="Settings to try for each architecture, its defaults among them.")
]
Budget = Annotated[
    str | None,
    typer.Option(help="Time for searching, such as 10m, divided evenly among architectures."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do again what is on record already.")]
Profile = Annotated[
    bool, typer.Option("--profile", help="Keep a trace of some training steps with each model.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Address = Annotated[
    str,
    typer.Option(
        envvar="IMGREC_CLUSTER", help="The cluster's job server, such as http://HEAD:8265."
    ),
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="As imgrec jobs lists it.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked for, in the words that ask for the same on another machine.

    Attributes:
        config: Checked.
        file: Where settings were read from.
        data: What --data said, as an absolute path.
        changes: The options and --set, as `key=value`.
    """

    config: "Config"
    file: Path | None
    data: str | None
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """Where `submit` sends what follows it."""

    address: str
    install: bool
    again: bool
    detach: bool


@dataclass(frozen=True, slots=True)
class Flags:
    """How a run is to be done, beside its settings."""

    fresh: bool = False
    as_json: bool = False
    quiet: bool = False
    profile: bool = False


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Train, compare, register and serve image recognizers."""
    if show:
        sys.stdout.write(f"imgrec {__version__}\n")
        raise typer.Exit


@submit.callback()
def submit_to(
    context: typer.Context,
    address: Address,
    install: Annotated[
        bool,
        typer.Option("--install", help="Install the packages of here on the nodes, with uv."),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Run once more what has succeeded.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
) -> None:
    """The same run, train or tune as a job of a Ray cluster; leave it, and rejoin it.

    Submitting the same once more does not run it twice: it rejoins the first.
    """
    context.obj = Target(address, install, again, detach)


@app.command()
@submit.command()
def run(
    context: typer.Context,
    config: ConfigFile = None,
    data: Data = None,
    arch: Annotated[
        str | None, typer.Option(help="Architectures, comma-separated: ann,cnn,rnn,transformer.")
    ] = None,
    trials: Trials = None,
    budget: Budget = None,
    fresh: Fresh = False,
    show_plan: Annotated[
        bool, typer.Option("--plan", help="Show the stages, and start nothing.")
    ] = False,
    profile: Profile = False,
    name: Name = None,
    settings: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search, train and register every architecture, and rank them."""
    archs = arch.split(",") if arch else None
    asked = _asked(config, data, archs, name, settings, trials, budget)
    if show_plan:
        if context.find_object(Target):
            msg = "--plan looks at the record from here: leave submit out"
            raise ConfigError(msg)
        from pipelines.plan import show_plan as show  # noqa: PLC0415

        show(asked.config, fresh=fresh, as_json=as_json, quiet=quiet)
    else:
        _run(context, asked, Flags(fresh, as_json, quiet, profile))


@app.command()
def check(
    path: Annotated[str, typer.Argument(help="What data.source takes: a folder, a table, ...")],
    config: Annotated[Path | None, typer.Option(help="Settings as TOML.")] = None,
    settings: Set = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Scan a data set and say what is wrong with it, before anything is spent."""
    whole = _load(config, path, None, None, settings)
    _refuse_missing(whole)
    from pipelines.check import show_check  # noqa: PLC0415

    show_check(whole, as_json=as_json, quiet=quiet, open_page=open_page)


@app.command()
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
    whole = _load(config, data, [arch], None, settings)
    _refuse_missing(whole)
    from pipelines.preview import show_preview  # noqa: PLC0415

    show_preview(whole, out, as_json=as_json, quiet=quiet)


@app.command()
@submit.command()
def train(
    context: typer.Context,
    arch: OneArch,
    config: ConfigFile = None,
    data: Data = None,
    trials: Trials = None,
    budget: Budget = None,
    fresh: Fresh = False,
    profile: Profile = False,
    name: Name = None,
    settings: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train and register one architecture."""
    asked = _asked(config, data, [arch], name, settings, trials, budget)
    _run(context, asked, Flags(fresh, as_json, quiet, profile))


@app.command()
@submit.command()
def tune(
    context: typer.Context,
    arch: OneArch,
    config: ConfigFile = None,
    data: Data = None,
    trials: Trials = None,
    budget: Budget = None,
    fresh: Fresh = False,
    name: Name = None,
    settings: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search better settings for one architecture; imgrec run then takes them from the record."""
    asked = _asked(config, data, [arch], name, settings, trials, budget)
    if not asked.config.search.wanted:
        asked = _asked(config, data, [arch], name, settings, TUNE_TRIALS, None)
    _run(context, asked, Flags(fresh, as_json, quiet), only_search=True)


@app.command()
def runs(config: ConfigFile = None, settings: Set = None, as_json: Json = False) -> None:
    """List runs with their state and best scores, and how to go on with those that did not end."""
    from pipelines.runs import show_runs  # noqa: PLC0415

    show_runs(_load(config, None, None, None, settings), as_json=as_json)


@app.command()
def models(config: ConfigFile = None, settings: Set = None, as_json: Json = False) -> None:
    """List the registered models, newest version first."""
    from pipelines.models import show_models  # noqa: PLC0415

    show_models(_load(config, None, None, None, settings), as_json=as_json)


@app.command()
def predict(
    model: Annotated[
        str,
        typer.Argument(
            help="digits-cnn (its champion), digits-cnn@alias, digits-cnn/3, models:/digits-cnn/3 or a folder."
        ),
    ],
    files: Annotated[
        list[str],
        typer.Argument(help="Pictures, folders of them, patterns, or - for standard input."),
    ],
    config: Annotated[Path | None, typer.Option(help="Settings that name the MLflow.")] = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Say what is in pictures, with a registered model."""
    from pipelines.predict import show_predictions  # noqa: PLC0415

    show_predictions(_load(config, None, None, None, settings), model, files, as_json=as_json)


@app.command()
def jobs(address: Address, as_json: Json = False) -> None:
    """List the jobs of a cluster that imgrec submitted."""
    from pipelines.jobs import show_jobs  # noqa: PLC0415

    show_jobs(address, as_json=as_json)


@app.command()
def logs(
    job: JobName,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Rejoin it.")] = False,
) -> None:
    """Print what a job has said; with --follow until it ends, and end as it does."""
    from pipelines.jobs import show_log  # noqa: PLC0415

    sys.exit(show_log(address, job, follow=follow))


@app.command()
def stop(job: JobName, address: Address) -> None:
    """Stop a job; submitted again, it goes on where it was."""
    from pipelines.jobs import stop_job  # noqa: PLC0415

    stop_job(address, job)


@app.command()
def doctor(
    config: ConfigFile = None,
    data: Data = None,
    address: Annotated[
        str, typer.Option(help="Look at the cluster behind this job server, from inside.")
    ] = "",
    settings: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what is wrong with this machine or a cluster, before a run finds out."""
    from pipelines.doctor import show_doctor  # noqa: PLC0415

    asked = _asked(config, data, None, None, settings, None, None)
    sys.exit(show_doctor(asked, address, as_json=as_json, quiet=quiet))


@app.command()
def ui(
    config: ConfigFile = None,
    settings: Set = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow UI on the record of this folder."""
    from pipelines.ui import serve_ui  # noqa: PLC0415

    serve_ui(_load(config, None, None, None, settings), port)


def main() -> NoReturn:
    """Run the command line; the exit status is 0, 1 our bug, 2 the user's mistake, 3 no model."""
    signal.signal(signal.SIGTERM, _interrupt)
    # A terminal that is closed ends a run as SIGTERM does; under nohup it goes on.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        # typer turns Ctrl-C into the status that a shell expects, and returns it.
        status = app(standalone_mode=False) or 0
    except ImgrecError as error:
        _leave(str(error), error.exit_status)
    except Exception as error:
        # typer's own errors over the arguments have a status and a message for people.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            message = error.format_message()
            if message:
                _leave(f"{message} See imgrec --help.", error.exit_code)
            sys.exit(error.exit_code)
        if failure := disk_failure(error):
            _leave(str(failure), failure.exit_status)
        raise
    if status == INTERRUPTED:
        _leave("interrupted", status)
    sys.exit(status)


def _run(
    context: typer.Context,
    asked: Asked,
    flags: Flags,
    *,
    only_search: bool = False,
) -> None:
    if target := context.find_object(Target):
        from pipelines.jobs import submit_job  # noqa: PLC0415

        assert context.command.name
        sys.exit(submit_job(target, context.command.name, asked, flags))
    config = asked.config
    _refuse_missing(config)
    from imgrec.distributed.address import refuse_silence  # noqa: PLC0415

    refuse_silence(config.cluster)
    from pipelines.display import Display  # noqa: PLC0415
    from pipelines.logs import chatter_to, log_to_file  # noqa: PLC0415
    from pipelines.report import print_report  # noqa: PLC0415
    from pipelines.run import run, tune  # noqa: PLC0415

    log_file = log_to_file(Path(config.storage))
    with Display(quiet=flags.quiet) as display, chatter_to(log_file):
        if only_search:
            summary = tune(config, display, log_file, fresh=flags.fresh, command=_command())
        else:
            summary = run(
                config,
                display,
                log_file,
                fresh=flags.fresh,
                command=_command(),
                profile=flags.profile,
            )
    if flags.as_json:
        print_json(summary.as_json())
    else:
        print_report(summary, log_file)
    if summary.failures:
        failed = "; ".join(f"{arch}: {reason}" for arch, reason in summary.failures.items())
        msg = f"no {'search' if only_search else 'model'} of {failed}"
        raise TrainingError(msg)


def _refuse_missing(config: "Config") -> None:
    """Before torch, Ray and MLflow are imported, which takes seconds."""
    from imgrec.data.sources import refuse_missing  # noqa: PLC0415

    refuse_missing(config.data.source)


def _load(
    path: Path | None,
    data: str | None,
    archs: list[str] | None,
    name: str | None,
    settings: list[str] | None,
) -> "Config":
    return _asked(path, data, archs, name, settings, None, None).config


def _asked(
    path: Path | None,
    data: str | None,
    archs: list[str] | None,
    name: str | None,
    settings: list[str] | None,
    trials: int | None,
    budget: str | None,
) -> Asked:
    from imgrec.config import load_config  # noqa: PLC0415

    changes = []
    file, source = path, None if data is None else absolute(data)
    if file is None and data in {None, "digits"}:
        file = DIGITS
    if name is not None:
        changes.append(f"name={json.dumps(name)}")
    if archs is not None:
        changes.append(f"archs={json.dumps(archs)}")
    if trials is not None:
        changes.append(f"search.trials={trials}")
    if budget is not None:
        changes.append(f"search.budget={json.dumps(budget)}")
    changes += settings or []
    of_source = [] if source is None else [f"data.source={json.dumps(source)}"]
    return Asked(load_config(file, [*of_source, *changes]), path, source, tuple(changes))


def absolute(source: str) -> str:
    """A path from the root of the disk; what is no path as it is."""
    is_path = source != "digits" and ":" not in source
    return str(Path(source).expanduser().absolute()) if is_path else source


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _command() -> str:
    """What the user typed, to be typed again."""
    words = [word for word in sys.argv[1:] if word != "--fresh"]  # to go on is not to begin anew
    return shlex.join(["uv", "run", "imgrec", *words])


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _leave(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"imgrec: {' '.join(message.split())}\n")
    sys.exit(status)
