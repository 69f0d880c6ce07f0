"""The commands that train: run, train, tune; and how submit sends them elsewhere."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from imgrec.errors import ConfigError, TrainingError
from pipelines.cli.options import (
    Budget,
    ConfigFile,
    Data,
    Fresh,
    Json,
    Name,
    OneArch,
    Profile,
    Quiet,
    Set,
    Trials,
)
from pipelines.cli.pages.output import print_json
from pipelines.request import (
    TUNE_TRIALS,
    Request,
    RunFlags,
    SubmitTarget,
    make_request,
    refuse_missing_data,
)


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
    request = make_request(
        config, data, archs, name=name, settings=settings, trials=trials, budget=budget
    )
    if show_plan:
        if context.find_object(SubmitTarget):
            msg = "--plan looks at the record from here: leave submit out"
            raise ConfigError(msg)
        from pipelines.cli.pages.plan import show_plan as show  # noqa: PLC0415

        show(request.config, fresh=fresh, as_json=as_json, quiet=quiet)
    else:
        _run(context, request, RunFlags(fresh, as_json, quiet, profile))


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
    request = make_request(
        config, data, [arch], name=name, settings=settings, trials=trials, budget=budget
    )
    _run(context, request, RunFlags(fresh, as_json, quiet, profile))


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
    request = make_request(
        config, data, [arch], name=name, settings=settings, trials=trials, budget=budget
    )
    if not request.config.search.wanted:
        request = make_request(
            config, data, [arch], name=name, settings=settings, trials=TUNE_TRIALS
        )
    _run(context, request, RunFlags(fresh, as_json, quiet), only_search=True)


def _run(
    context: typer.Context,
    request: Request,
    flags: RunFlags,
    *,
    only_search: bool = False,
) -> None:
    if target := context.find_object(SubmitTarget):
        from pipelines.cli.pages.jobs import submit_job  # noqa: PLC0415

        assert context.command.name
        sys.exit(submit_job(target, context.command.name, request, flags))
    config = request.config
    refuse_missing_data(config)
    from imgrec.distributed.address import refuse_silence  # noqa: PLC0415

    refuse_silence(config.cluster)
    from pipelines.cli.pages.live import LiveTable  # noqa: PLC0415
    from pipelines.cli.pages.report import print_report  # noqa: PLC0415
    from pipelines.logs import chatter_to, log_to_file  # noqa: PLC0415
    from pipelines.run import run, tune  # noqa: PLC0415

    log_file = log_to_file(Path(config.storage))
    with LiveTable(quiet=flags.quiet) as observer, chatter_to(log_file):
        if only_search:
            summary = tune(config, observer, log_file, fresh=flags.fresh, command=_command())
        else:
            summary = run(
                config,
                observer,
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


def _command() -> str:
    """What the user typed, to be typed again."""
    words = [word for word in sys.argv[1:] if word != "--fresh"]  # to go on is not to begin anew
    return shlex.join(["uv", "run", "imgrec", *words])
