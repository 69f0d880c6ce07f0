"""A run as a job of a Ray cluster: sent there, followed, left, rejoined, stopped."""

import datetime as dt
import shlex
import sys
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape

from imgrec.distributed.jobs import Job, JobServer
from imgrec.errors import ClusterError
from pipelines.cli.pages.output import make_console, print_json
from pipelines.formats import size
from pipelines.request import Request, RunFlags, SubmitTarget
from pipelines.upload import (
    installed_packages,
    last_object,
    packed,
    refuse_local,
    upload_digest,
    uploaded_files,
    words_for,
)

MOST_BYTES = 50_000_000
LARGEST_SHOWN = 3
COLORS = {"succeeded": "green", "failed": "red", "stopped": "yellow", "running": "cyan"}
# Where Ray does not know what the process of a job ended with.
EXIT_STATUS = {"succeeded": 0, "failed": 1, "stopped": 130}


def submit_job(target: SubmitTarget, command: str, request: Request, flags: RunFlags) -> int:
    """Send a run to a cluster, and follow it to its end.

    The job's name is made of the settings and the code. A job of that name that runs, or has
    succeeded, is rejoined; one that failed or was stopped is submitted again and goes on where it
    was, as a run on one machine would.

    Returns:
        The exit status: the job's own.

    Raises:
        ImgrecError: before anything is sent, where settings or cluster cannot do.
    """
    console = Console(stderr=True, highlight=False, quiet=flags.quiet)
    config = request.config
    refuse_local(config)
    server = JobServer(target.address)
    words = words_for(command, request, flags)
    with packed(request) as folder:
        _show(folder, console)
        name = f"imgrec-{config.name}-{upload_digest(folder, words)}"
        earlier = server.find(name)
        if earlier and earlier.is_over and (earlier.state != "succeeded" or target.again):
            server.forget(name)
            earlier = None
        if earlier:
            console.print(f"{name}: {earlier.state} already; it is not run twice")
        else:
            tags = {"name": config.name, "archs": ",".join(config.archs)}
            packages = installed_packages() if target.install else None
            server.submit(name, shlex.join(words), folder, tags, packages)
            console.print(f"{name}: submitted to {server.address}")
    if target.detach:
        if flags.as_json:
            print_json({"job": name, "address": server.address})
        console.print(f"rejoin it with {_rejoin(server, name)}")
        return 0
    if not flags.as_json:
        return _follow(server, name, sys.stdout)
    # What the job says goes beside, so that standard output is one object.
    status = _follow(server, name, sys.stderr)
    print_json({"job": name, "exit_status": status, "result": last_object(server.log(name))})
    return status


def show_jobs(address: str, *, as_json: bool) -> None:
    """Print the jobs of a cluster that came from imgrec, newest first."""
    jobs = JobServer(address).jobs()
    if as_json:
        rows = [{"job": job.id, **_as_json(job)} for job in jobs]
        print_json({"address": address, "jobs": rows})
        return
    console = make_console()
    if not jobs:
        console.print("no job was submitted yet: imgrec submit --address ... run")
    for job in jobs:
        began = dt.datetime.fromtimestamp(job.began).astimezone() if job.began else None
        when = f"{began:%Y-%m-%d %H:%M}" if began else "not begun"
        color = COLORS.get(job.state, "default")
        console.print(f"[{color}]{job.state:9}[/]  {when}  [bold]{escape(job.id)}[/]")
        console.print(f"           [dim]{escape(job.command)}[/]", soft_wrap=True)


def show_log(address: str, name: str, *, follow: bool) -> int:
    """Print what a job has said; the exit status is the job's if it was followed."""
    server = JobServer(address)
    server.get(name)
    if follow:
        return _follow(server, name, sys.stdout)
    sys.stdout.write(server.log(name))
    return 0


def stop_job(address: str, name: str) -> None:
    """Stop a job, which marks its runs as interrupted."""
    server = JobServer(address)
    job = server.get(name)
    if job.is_over:
        msg = f"{name}: {job.state} already"
        raise ClusterError(msg)
    server.stop(name)
    sys.stdout.write(f"{name}: told to stop; submitted again, it goes on where it was\n")


def _show(folder: Path, console: Console) -> None:
    """Say what will be sent.

    Raises:
        ClusterError: it is too much.
    """
    files = sorted(uploaded_files(folder), key=lambda path: -path.stat().st_size)
    total = sum(path.stat().st_size for path in files)
    largest = ", ".join(
        f"{path.relative_to(folder)} {size(path.stat().st_size)}" for path in files[:LARGEST_SHOWN]
    )
    said = f"{len(files)} files, {size(total)} (the largest: {largest})"
    if total > MOST_BYTES:
        msg = (
            f"{said}: more than the {size(MOST_BYTES)} that a job may bring; move what is not "
            f"code out of the packages imgrec and pipelines"
        )
        raise ClusterError(msg)
    console.print(f"uploading code and settings: {said}", soft_wrap=True)


def _follow(server: JobServer, name: str, out: TextIO) -> int:
    """Print what a job says until it ends; Ctrl-C leaves it running."""
    try:
        for text in server.follow(name):
            out.write(text)
            out.flush()
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{name} goes on; rejoin it with {_rejoin(server, name)}\n")
        raise
    job = server.get(name)
    sys.stderr.write(f"{name}: {job.state}{_reason(job)}\n")
    return EXIT_STATUS[job.state] if job.exit_status is None else job.exit_status


def _reason(job: Job) -> str:
    """What Ray says of a job that did not succeed, unless the job has said it itself."""
    if job.state == "succeeded" or job.exit_status in {2, 3}:
        return ""
    return f" ({' '.join(job.message.split())[:300]})"


def _as_json(job: Job) -> dict[str, Any]:
    return {
        "state": job.state,
        "began": job.began,
        "ended": job.ended,
        "exit_status": job.exit_status,
    }


def _rejoin(server: JobServer, name: str) -> str:
    return f"imgrec logs {name} --follow --address {server.address}"
