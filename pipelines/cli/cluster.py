"""The commands for clusters: submit, jobs, logs, stop, doctor."""

import sys
from typing import Annotated

import typer

from pipelines.cli.options import (
    Address,
    ConfigFile,
    Data,
    JobName,
    Json,
    Quiet,
    Set,
)
from pipelines.request import (
    SubmitTarget,
    make_request,
)


def submit_to(
    context: typer.Context,
    address: Address,
    install: Annotated[
        bool,
        typer.Option(
            "--install", help="Install this environment's package versions on the nodes, with uv."
        ),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Run again even if it has succeeded.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
) -> None:
    """The same run, train or tune as a job of a Ray cluster; leave it, and rejoin it.

    Submitting the same once more does not run it twice: it rejoins the first.
    """
    context.obj = SubmitTarget(address, install, again, detach)


def jobs(address: Address, as_json: Json = False) -> None:
    """List the jobs of a cluster that imgrec submitted."""
    from pipelines.cli.pages.jobs import show_jobs  # noqa: PLC0415

    show_jobs(address, as_json=as_json)


def logs(
    job: JobName,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Rejoin it.")] = False,
) -> None:
    """Print what a job has said; with --follow until it ends, and end as it does."""
    from pipelines.cli.pages.jobs import show_log  # noqa: PLC0415

    sys.exit(show_log(address, job, follow=follow))


def stop(job: JobName, address: Address) -> None:
    """Stop a job; submitted again, it goes on where it was."""
    from pipelines.cli.pages.jobs import stop_job  # noqa: PLC0415

    stop_job(address, job)


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
    from pipelines.cli.pages.doctor import show_doctor  # noqa: PLC0415

    request = make_request(config, data, settings=settings)
    sys.exit(show_doctor(request, address, as_json=as_json, quiet=quiet))
