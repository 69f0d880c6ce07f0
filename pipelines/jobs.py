"""A run as a job of a Ray cluster: sent there, followed, left, rejoined, stopped."""

import datetime as dt
import hashlib
import json
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape

import imgrec
import pipelines
from imgrec.config import Config
from imgrec.distributed.jobs import Job, JobServer
from imgrec.errors import ClusterError, ConfigError, reason_of
from imgrec.tracking.connection import refuse_local_record, tracking_uri
from pipelines.cli import Asked, Flags, Target, absolute, print_json
from pipelines.display import size

MOST_BYTES = 50_000_000
LARGEST_SHOWN = 3
CONFIG = "run.toml"
COLORS = {"succeeded": "green", "failed": "red", "stopped": "yellow", "running": "cyan"}
# Where Ray does not know what the process of a job ended with.
EXIT_STATUS = {"succeeded": 0, "failed": 1, "stopped": 130}
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def submit_job(target: Target, command: str, asked: Asked, flags: Flags) -> int:
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
    config = asked.config
    refuse_local(config)
    server = JobServer(target.address)
    words = words_for(command, asked, flags)
    with packed(asked) as folder:
        _show(folder, console)
        name = f"imgrec-{config.name}-{_digest(folder, words)}"
        earlier = server.find(name)
        if earlier and earlier.is_over and (earlier.state != "succeeded" or target.again):
            server.forget(name)
            earlier = None
        if earlier:
            console.print(f"{name}: {earlier.state} already; it is not run twice")
        else:
            tags = {"name": config.name, "archs": ",".join(config.archs)}
            packages = _packages() if target.install else None
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


def last_object(log: str) -> Any:
    """What `--json` printed at the end of a log; None where there is no such thing."""
    end = log if log.startswith("{\n") else log[log.rfind("\n{\n") + 1 :]
    try:
        return json.JSONDecoder().raw_decode(end)[0] if end.startswith("{\n") else None
    except ValueError:
        return None


def show_jobs(address: str, *, as_json: bool) -> None:
    """Print the jobs of a cluster that came from imgrec, newest first."""
    jobs = JobServer(address).jobs()
    if as_json:
        rows = [{"job": job.id, **_as_json(job)} for job in jobs]
        print_json({"address": address, "jobs": rows})
        return
    console = Console(highlight=False)
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


def refuse_local(config: Config) -> None:
    """Raise ConfigError where a setting means this machine, on which the job will not run."""
    refuse_local_record(config.tracking, Path(config.storage))
    if config.storage == str(Path("mlruns").absolute()):
        msg = (
            f"storage = {config.storage!r}: a folder of this machine; on a cluster set one that "
            f"every node sees under the same path: storage=/mnt/shared/imgrec"
        )
        raise ConfigError(msg)


def words_for(command: str, asked: Asked, flags: Flags) -> list[str]:
    """The command as the head node will run it, in the uploaded folder."""
    # Paths of this machine's current folder and its environment are said in full.
    uri = tracking_uri(asked.config.tracking, Path(asked.config.storage))
    own = [one for one in asked.changes if not one.startswith(("storage=", "tracking.uri="))]
    if asked.file and not asked.data:
        own.append(f"data.source={json.dumps(absolute(asked.config.data.source))}")
    settings = [*own, f"storage={asked.config.storage}", f"tracking.uri={uri}"]
    words = ["python", "-m", "pipelines", command]
    if command in {"train", "tune"}:
        words += ["--arch", *asked.config.archs]
    words += [CONFIG] if asked.file else []
    words += ["--data", asked.data] if asked.data else []
    words += [word for setting in settings for word in ("--set", setting)]
    given = {
        "--fresh": flags.fresh,
        "--json": flags.as_json,
        "--quiet": flags.quiet,
        "--profile": flags.profile,
    }
    return words + [flag for flag, is_set in given.items() if is_set]


@contextmanager
def packed(asked: Asked) -> Iterator[Path]:
    """A folder with the code and the settings, and nothing else: never data, mlruns or .git."""
    with tempfile.TemporaryDirectory(prefix="imgrec-upload-") as temporary:
        folder = Path(temporary)
        try:
            for package in (imgrec, pipelines):
                source = Path(str(package.__file__)).parent
                shutil.copytree(source, folder / source.name, ignore=IGNORED)
            if asked.file:
                shutil.copyfile(asked.file, folder / CONFIG)
        except OSError as error:
            msg = f"{folder}: what is to be sent cannot be copied there ({reason_of(error)})"
            raise ClusterError(msg) from error
        yield folder


def _show(folder: Path, console: Console) -> None:
    """Say what will be sent.

    Raises:
        ClusterError: it is too much.
    """
    files = sorted(_files(folder), key=lambda path: -path.stat().st_size)
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


def _digest(folder: Path, words: list[str]) -> str:
    """A short hash of the code, the settings and the command."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in _files(folder):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _packages() -> list[str]:
    """What imgrec depends on, in the very versions of here."""
    needed = metadata.requires("imgrec") or []
    names = [
        re.split(r"[^\w\[\].,-]", one, maxsplit=1)[0] for one in needed if "extra ==" not in one
    ]
    return [f"{name}=={metadata.version(name.partition('[')[0])}" for name in names]


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
