"""Options that several commands share."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.request import Request, RunFlags, make_request

ConfigFile = Annotated[
    Path | None, typer.Argument(help="Settings as TOML. Default: the bundled digits.")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="A folder of class folders, .csv, .jsonl, .parquet, .tar, .zip, torchvision:NAME or a URL."
    ),
]
Name = Annotated[str | None, typer.Option(help="First part of the names of the models.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: train.epochs=20. Repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
ARCHS = "ann, cnn, rnn, transformer"
"""As `imgrec.config.ARCHS`, which takes pydantic, and so a tenth of a second, to import."""
OneArch = Annotated[str, typer.Option("--arch", help=f"One of {ARCHS}.")]
SomeArchs = Annotated[
    str | None, typer.Option("--arch", help=f"Architectures, comma-separated, of {ARCHS}.")
]
Trials = Annotated[
    int | None, typer.Option(help="Settings to try for each architecture, its defaults among them.")
]
Budget = Annotated[
    str | None,
    typer.Option(help="Time for searching, such as 10m, divided evenly among architectures."),
]
Seeds = Annotated[
    int | None, typer.Option(help="Train each architecture so often, with seeds of its own.")
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
class RunOptions:
    """What run, train and tune have in common."""

    config: ConfigFile = None
    data: Data = None
    trials: Trials = None
    budget: Budget = None
    fresh: Fresh = False
    name: Name = None
    settings: Set = None
    as_json: Json = False
    quiet: Quiet = False

    def request(
        self, archs: list[str] | None, *, trials: int | None = None, seeds: int | None = None
    ) -> Request:
        """What they ask for.

        Args:
            archs: Of this command; None leaves them to the settings.
            trials: In place of those that were asked for.
            seeds: How many to train each architecture with.

        Raises:
            ConfigError: a setting is wrong.
        """
        return make_request(
            self.config,
            self.data,
            archs,
            name=self.name,
            settings=self.settings,
            trials=trials or self.trials,
            budget=self.budget,
            seeds=seeds,
        )

    def flags(self, *, profile: bool = False) -> RunFlags:
        """How it is to be done."""
        return RunFlags(self.fresh, self.as_json, self.quiet, profile)


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of `RunOptions` as options of its own, in place of its `options`."""
    shared = inspect.signature(RunOptions, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters
    parameters = [one for name, one in own.items() if name != "options"] + [*shared.values()]

    @functools.wraps(command)
    def run(**said: Any) -> None:
        options = RunOptions(**{name: said.pop(name) for name in shared})
        command(**said, options=options)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run
