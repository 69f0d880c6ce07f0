"""Ray for the length of a run: a local one that is started and stopped, or a cluster that is joined."""

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from imgrec.config import ClusterConfig
from imgrec.distributed.events import Mailbox
from imgrec.distributed.nodes import machines
from imgrec.errors import ClusterError

# Ray's default would reserve a third of the memory; the pictures come from the store's own map.
# Lines that say nothing: Ray's markers, and a complaint about the dashboard that we do not start.
NOISE = (":", "Failed to query Ray Train Controller actor state")
THREAD_SECONDS = 10.0
OBJECT_STORE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of the cluster has."""

    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Session:
    """A Ray that is up.

    Attributes:
        nodes: Cores and GPUs of every node.
        mailbox: Where workers put what the driver is to know.
        threads: What waits for Ray.
    """

    nodes: tuple[Node, ...]
    mailbox: Mailbox
    threads: list[threading.Thread] = field(default_factory=list)

    def beside(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Let a thread do what Ray answers to late, so that the caller can watch, and answer Ctrl-C.

        When Ray goes down it is waited for: inside Ray at the end of the interpreter, it would crash it.
        """
        thread = threading.Thread(target=work, daemon=True, name=name)
        self.threads.append(thread)
        thread.start()
        return thread


def cluster_address(config: ClusterConfig) -> str:
    """Of the cluster to join; empty where a local Ray is started."""
    return config.address or os.environ.get("RAY_ADDRESS", "")


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
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # A short path: the names of Unix sockets below it end at 107 characters.
    temporary = None if address else Path(tempfile.mkdtemp(prefix="imgrec-", dir="/tmp"))
    on_sigterm = signal.getsignal(signal.SIGTERM)
    threads: list[threading.Thread] = []
    try:
        if temporary is None:
            _join(address, quiet)
        else:
            # Nobody takes this machine away, and to watch for it is a process more at every start.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=dashboard,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(temporary),
                **quiet,
            )
        _log_as_others_do()
        # Ray took it over, and would end the process before our runs are marked as killed.
        signal.signal(signal.SIGTERM, on_sigterm)
        nodes = tuple(Node(machine.cpus, machine.gpus) for machine in machines())
        session = Session(nodes, Mailbox.start())
        threads = session.threads
        yield session
    finally:
        ray.shutdown()
        deadline = time.monotonic() + THREAD_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if temporary is not None:
            _keep_logs(temporary, log_file)
            shutil.rmtree(temporary, ignore_errors=True)


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


def _join(address: str, quiet: dict[str, Any]) -> None:
    try:
        ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if "AuthenticationError" in f"{error} {error.__cause__}":
            raise wants_token(address) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
        msg = f"cluster.address = {address!r}: no Ray cluster answers there ({reason})"
        raise ClusterError(msg) from error


def _keep_logs(session_folder: Path, log_file: Path) -> None:
    """Append what workers printed, before Ray's session folder goes."""
    with log_file.open("a", encoding="utf-8") as log:
        for path in sorted(session_folder.glob("session_2*/logs/worker-*.*")):
            text = path.read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.splitlines() if line and not line.startswith(NOISE)]
            if lines:
                log.write(f"---- {path.name}\n" + "\n".join(lines) + "\n")
