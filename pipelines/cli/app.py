"""The command line: which commands there are, and how a process ends.

Nothing heavy is imported here: torch, ray and mlflow cost seconds, and `--help` should not.
"""

import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from imgrec.errors import ImgrecError, disk_failure
from imgrec.machine import collect_seldom, keep_memory
from imgrec.version import __version__
from pipelines.cli import cluster, data, record, train

INTERRUPTED = 130
APP: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
SUBMITTED = (train.run, train.train, train.tune)
COMMANDS: tuple[Callable[..., Any], ...] = (
    train.run,
    data.check,
    data.preview,
    data.fetch,
    train.train,
    train.tune,
    record.runs,
    record.compare,
    record.report,
    record.models,
    record.promote,
    record.rollback,
    record.history,
    record.why,
    record.reproduce,
    record.predict,
    record.serve,
    record.export,
    cluster.jobs,
    cluster.logs,
    cluster.stop,
    cluster.doctor,
    record.ui,
)
app = typer.Typer(help="Train, compare, register and serve image recognizers.", **APP)
submit = typer.Typer(callback=cluster.submit_to, **APP)
app.add_typer(submit, name="submit")
for command in COMMANDS:
    app.command()(command)
for submitted in SUBMITTED:
    submit.command()(submitted)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Train, compare, register and serve image recognizers."""
    if show:
        sys.stdout.write(f"imgrec {__version__}\n")
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line; the exit status is 0, 1 our bug, 2 the user's mistake, 3 no model."""
    collect_seldom()
    keep_memory()
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


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _leave(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"imgrec: {' '.join(message.split())}\n")
    sys.exit(status)
