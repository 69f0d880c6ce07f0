"""The commands that train: run, train, tune; and how submit sends them elsewhere."""

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from imgrec.errors import ConfigError, TrainingError
from pipelines.cli.options import (
    OneArch,
    Profile,
    RunOptions,
    Seeds,
    SomeArchs,
    with_run_options,
)
from pipelines.cli.pages.output import print_json, say_loading
from pipelines.request import (
    TUNE_TRIALS,
    Request,
    RunFlags,
    SubmitTarget,
    refuse_missing_data,
)


@with_run_options
def run(
    context: typer.Context,
    options: RunOptions,
    arch: SomeArchs = None,
    show_plan: Annotated[
        bool, typer.Option("--plan", help="Show the stages, and start nothing.")
    ] = False,
    profile: Profile = False,
    seeds: Seeds = None,
) -> None:
    """Search, train and register every architecture, and rank them."""
    request = options.request(arch.split(",") if arch else None, seeds=seeds)
    if not show_plan:
        _run(context, request, options.flags(profile=profile))
        return
    if context.find_object(SubmitTarget):
        msg = "--plan looks at the record from here: leave submit out"
        raise ConfigError(msg)
    from pipelines.cli.pages.plan import show_plan as show  # noqa: PLC0415

    show(request.config, fresh=options.fresh, as_json=options.as_json, quiet=options.quiet)


@with_run_options
def train(
    context: typer.Context,
    options: RunOptions,
    arch: OneArch,
    profile: Profile = False,
    seeds: Seeds = None,
) -> None:
    """Train and register one architecture."""
    _run(context, options.request([arch], seeds=seeds), options.flags(profile=profile))


@with_run_options
def tune(context: typer.Context, options: RunOptions, arch: OneArch) -> None:
    """Search better settings for one architecture; imgrec run then takes them from the record."""
    request = options.request([arch])
    if not request.config.search.wanted:
        request = options.request([arch], trials=TUNE_TRIALS)
    _run(context, request, options.flags(), only_search=True)


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
    from imgrec.distributed.local import start_local  # noqa: PLC0415
    from imgrec.machine import PatientImport  # noqa: PLC0415
    from pipelines.logs import chatter_to, log_to_file  # noqa: PLC0415

    refuse_silence(config.cluster)
    began = say_loading(quiet=flags.quiet)
    log_file = log_to_file(Path(config.storage))
    # Before the imports, which take as long as it does, and give way to it: what it takes longer is more, for it looks
    # once a second whether its processes are there.
    local = start_local(config.cluster, config.search, log_file)
    if local:
        with PatientImport(("pipelines.start", "pipelines.cli.pages.live")):
            pass
    from pipelines.cli.pages.live import LiveTable  # noqa: PLC0415
    from pipelines.cli.pages.report import print_report  # noqa: PLC0415
    from pipelines.start import Start  # noqa: PLC0415

    with (
        closing(LiveTable(quiet=flags.quiet, began=began)) as observer,
        chatter_to(log_file),
        Start(config, observer, log_file, local, fresh=flags.fresh, began=began) as start,
    ):
        from pipelines.run import run, tune  # noqa: PLC0415 - beside the worker's imports

        if only_search:
            summary = tune(start, command=_command())
        else:
            summary = run(start, command=_command(), profile=flags.profile)
    if flags.as_json:
        print_json(summary.as_json())
    else:
        print_report(summary, log_file)
    if summary.failures:
        failed = "; ".join(f"{arch}: {reason}" for arch, reason in summary.failures.items())
        msg = f"no {'search' if only_search else 'model'} of {failed}"
        raise TrainingError(msg)
    if unproven := summary.unproven():
        told = "; ".join(f"{arch}: {reason}" for arch, reason in unproven.items())
        raise TrainingError(told)


def _command() -> str:
    """What the user typed, to be typed again."""
    words = [word for word in sys.argv[1:] if word != "--fresh"]  # to go on is not to begin anew
    return shlex.join(["uv", "run", "imgrec", *words])
