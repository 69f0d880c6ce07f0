"""Ray for the length of a run: a local one that is started and stopped, or a cluster that is joined."""

import logging
import os
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from imgrec.config import ClusterConfig
from imgrec.distributed.address import cluster_address, refuse_silence, setting_of_address
from imgrec.distributed.events import Mailbox
from imgrec.distributed.nodes import SHARED_MEMORY, NodeInfo, list_nodes
from imgrec.errors import ClusterError
from imgrec.machine import locked, memory_limit

# Ray's default would reserve a third of the memory; the pictures come from the store's own map.
# Lines that say nothing: Ray's markers, and a complaint about the dashboard that we do not start.
RANDOM = (":", "Failed to query Ray Train Controller actor state")
THREAD_SECONDS = 10.0
# Of Ray, the driver and one worker together, and of each further worker, on the smallest of data (docs/results.md).
LEAST_MEMORY, MEMORY_OF_A_WORKER = 3_000_000_000, 600_000_000
PREFIX, RAY, TMP = "imgrec-", "ray", "tmp"
TEMPORARY = ("TMPDIR", "RAY_TMPDIR")
"""Environment variables that name the folder for temporary files, where Ray also looks for an address."""
OBJECT_STORE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Session:
    """A Ray that is up.

    Attributes:
        nodes: Of its cluster, when it came up.
        mailbox: Where workers put what the driver is to know.
        is_local: It is this machine's alone, and was started for this session.
        prepared: A worker that is coming up, for the first lane to take.
        threads: What waits for Ray.
        over: Set when Ray goes down.
    """

    nodes: tuple[NodeInfo, ...]
    mailbox: Mailbox
    is_local: bool
    prepared: list[ActorHandle] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def is_over(self) -> bool:
        """Whether Ray goes down, or is down: a thread that calls it now would start another."""
        return self.over.is_set()

    def beside(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Let a thread do what Ray answers to late, so that the caller can watch, and answer Ctrl-C.

        When Ray goes down it is waited for: inside Ray at the end of the interpreter, it would crash it.
        """
        thread = threading.Thread(target=work, daemon=True, name=name)
        self.threads.append(thread)
        thread.start()
        return thread


@contextmanager
def ray_session(
    config: ClusterConfig, log_file: Path, *, cpus: int | None = None, dashboard: bool = False
) -> Iterator[Session]:
    """Ray is up inside, and down (or left alone, if it was joined) after.

    Args:
        config: Names the cluster; without an address and RAY_ADDRESS a local Ray is started.
        cpus: Cores of a local Ray; by default those of the machine.
        dashboard: Start a local Ray with its dashboard, which trials with several workers need:
            through it Ray learns that a trainer was killed, and frees what its workers held.
        log_file: The logs of a local Ray's workers are appended to it at the end.

    Raises:
        ClusterError: the cluster does not answer.
    """
    address = cluster_address(config)
    refuse_silence(config)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    threads: list[threading.Thread] = []
    over = threading.Event()
    with ExitStack() as stack:
        if address:
            stack.callback(_end_ray, threads, over)
            _join(address, setting_of_address(config), quiet)
        else:
            _refuse_little_memory(config.least_workers)
            temporary = stack.enter_context(_session_folder())
            stack.callback(_keep_logs, temporary / RAY, log_file)
            stack.callback(_end_ray, threads, over)
            _provide_token(log_file)
            # Nobody takes this machine away, and to watch for it is a process more at every start.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            with _temporary_files_in(temporary):
                ray.init(
                    "local",
                    num_cpus=cpus,
                    include_dashboard=dashboard,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(temporary / RAY),
                    _plasma_directory=None if _has_shared_memory() else str(temporary),
                    **quiet,
                )
                _note_address(temporary)
        _log_as_others_do()
        if threading.current_thread() is threading.main_thread():  # in another Ray leaves it alone
            # Ray took it over, and would end the process before our runs are marked as killed.
            signal.signal(signal.SIGTERM, on_sigterm)
        nodes = tuple(list_nodes())
        yield Session(nodes, Mailbox.start(), not address, threads=threads, over=over)


def _refuse_little_memory(workers: int) -> None:
    """Raise ClusterError where a run would be killed on its way, some minutes after its start."""
    limit, needed = memory_limit(), LEAST_MEMORY + (workers - 1) * MEMORY_OF_A_WORKER
    if limit < needed:
        cure = ", or lower cluster.workers" if workers > 1 and limit >= LEAST_MEMORY else ""
        msg = (
            f"this machine, or its container, gives {limit / 1e9:.1f} GB of memory, and a run with "
            f"{workers} worker{'s' if workers > 1 else ''} takes {needed / 1e9:.1f} GB at least; give it more{cure}"
        )
        raise ClusterError(msg)


def _end_ray(threads: list[threading.Thread], over: threading.Event) -> None:
    """Bring Ray down, and wait for what waits in it: at the end of the interpreter it would crash it."""
    over.set()
    ray.shutdown()
    deadline = time.monotonic() + THREAD_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def _session_folder() -> Iterator[Path]:
    """A folder for all that a local Ray writes, its owner's alone; those that killed runs left go first.

    A short path: the names of Unix sockets below it end at 107 characters. Ray opens its own folder to all
    users, so it is one below.
    """
    above = Path("/tmp")  # noqa: S108 - the folder gets a name of its own, and is nobody else's
    for lock in above.glob(f"{PREFIX}*/lock"):
        with suppress(OSError):
            if lock.parent.stat().st_uid == os.getuid() and not lock.is_symlink():
                with locked(lock, wait=False) as abandoned:
                    if abandoned:
                        shutil.rmtree(lock.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=above))
    with locked(folder / "locking"):
        # Only now others see it as a lock, and it is held.
        (folder / "locking").rename(folder / "lock")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Processes that are started inside leave their temporary files in the folder, which goes at the end."""
    tempfile.gettempdir()  # before it is changed, for this process keeps what it finds first
    kept = {name: os.environ.get(name) for name in TEMPORARY}
    (folder / TMP).mkdir()
    os.environ.update(dict.fromkeys(TEMPORARY, str(folder / TMP)))
    try:
        yield
    finally:
        for name, value in kept.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _note_address(folder: Path) -> None:
    """Write the address of a local Ray where its own processes look for one, as `ray start` does.

    Ray Train asks the cluster that it finds by itself whether a trainer lives. With another Ray on this
    machine it would find two, ask neither, and never free what a stopped trial holds.
    """
    note = folder / TMP / "ray" / "ray_current_cluster"
    note.parent.mkdir(exist_ok=True)
    note.write_text(ray.get_runtime_context().gcs_address, encoding="utf-8")


def _has_shared_memory() -> bool:
    """Whether Ray's objects can lie where it puts them by itself; elsewhere they are a little slower."""
    return not sys.platform.startswith("linux") or os.access(SHARED_MEMORY, os.W_OK)


def _provide_token(log_file: Path) -> None:
    """Give a local Ray a token where it cannot keep one in the home folder, as in some containers."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    try:
        kept = Path.home() / ".ray" / "auth_token"
        kept.parent.mkdir(exist_ok=True)
        if kept.exists():
            return
        with tempfile.TemporaryFile(dir=kept.parent):
            return
    except (OSError, RuntimeError):
        pass  # a user without a home, or one that is not to be written to
    token = log_file.with_name(".ray_token")
    with locked(token.with_name(".ray_token.lock")):
        if not token.exists() or not token.stat().st_size:
            file = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(file, "w") as opened:
                opened.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


def wants_token(address: str) -> ClusterError:
    """The error for a cluster that does not let us in."""
    return ClusterError(
        f"{address}: the cluster wants its token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a "
        f"file that holds it"
    )


def _log_as_others_do() -> None:
    """Let Ray's messages go where this process's others go.

    By a handler of its own it writes to the terminal, such as the traceback of a trial whose process
    died and was replaced.
    """
    logger = logging.getLogger("ray")
    logger.handlers.clear()
    logger.propagate = True


def _join(address: str, where: str, quiet: dict[str, Any]) -> None:
    try:
        ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if "AuthenticationError" in f"{error} {error.__cause__}":
            raise wants_token(address) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
        msg = f"{where} = {address!r}: cannot be joined ({reason})"
        raise ClusterError(msg) from error


def _keep_logs(session_folder: Path, log_file: Path) -> None:
    """Append what workers printed, before Ray's session folder goes; of files that are ours, and no links."""
    with log_file.open("a", encoding="utf-8") as log:
        for path in sorted(session_folder.glob("session_2*/logs/worker-*.*")):
            text = _own_text(path)
            lines = [line for line in text.splitlines() if line and not line.startswith(RANDOM)]
            if lines:
                log.write(f"---- {path.name}\n" + "\n".join(lines) + "\n")


def _own_text(path: Path) -> str:
    """What a file holds; nothing where it is a link, or another user's."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # ELOOP: a link; or it has gone
        return ""
    with os.fdopen(file, "rb") as opened:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            return ""
        return opened.read().decode("utf-8", "replace")
