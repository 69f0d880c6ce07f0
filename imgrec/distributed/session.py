"""Ray for the length of a run: a local one that is started and stopped, or a cluster that is joined."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray._raylet import Config  # type: ignore[attr-defined]  # compiled
from ray.actor import ActorHandle

from imgrec.config import ClusterConfig
from imgrec.distributed.address import cluster_address, refuse_silence, setting_of_address
from imgrec.distributed.events import Mailbox
from imgrec.distributed.local import LocalRay
from imgrec.distributed.lone_worker import prepared_worker
from imgrec.distributed.nodes import NodeInfo, list_nodes
from imgrec.errors import ClusterError

THREAD_SECONDS = 10.0
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


class Beside:
    """What Ray answers to late, done by a thread, so that whoever waits for it answers Ctrl-C."""

    def __init__(self, work: Callable[[], object], name: str) -> None:
        # A `join` that Ctrl-C breaks off takes the thread for dead (Python 3.11): nobody would wait for it any more.
        self._over = threading.Event()
        self._begun = False
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True, name=name)

    def start(self) -> None:
        """Begin; noted before the thread runs, for Ctrl-C may come at any moment."""
        self._begun = True
        self._thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        finally:
            self._over.set()

    def is_begun(self) -> bool:
        """Whether its thread may run."""
        return self._begun

    def is_over(self) -> bool:
        """Whether it is done."""
        return self._over.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Return whether it is done, after so many seconds at the latest."""
        return self._over.wait(seconds)


@dataclass(frozen=True, slots=True)
class Session:
    """A Ray that is up.

    Attributes:
        nodes: Of its cluster, when it came up.
        mailbox: Where workers put what the driver is to know.
        is_local: It is this machine's alone, and was started for this session.
        prepared: A worker that is coming up, for the first lane to take.
        waiting: What waits for Ray.
        over: Set when Ray goes down.
    """

    nodes: tuple[NodeInfo, ...]
    mailbox: Mailbox
    is_local: bool
    prepared: list[ActorHandle] = field(default_factory=list)
    waiting: list[Beside] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def is_over(self) -> bool:
        """Whether Ray goes down, or is down: what fails now is nobody's to make good."""
        return self.over.is_set()

    def beside(self, work: Callable[[], object], name: str) -> Beside:
        """Begin with what Ray answers to late.

        When Ray goes down it is waited for: inside Ray at the end of the interpreter, it would crash it.
        """
        one = Beside(work, name)
        self.waiting.append(one)
        one.start()
        return one


@contextmanager
def ray_session(
    config: ClusterConfig,
    log_file: Path,
    *,
    cpus: int | None = None,
    dashboard: bool = False,
    local: LocalRay | None = None,
) -> Iterator[Session]:
    """Ray is up inside, and down (or left alone, if it was joined) after.

    Args:
        config: Names the cluster; without an address and RAY_ADDRESS a local Ray is started.
        log_file: The logs of a local Ray's workers are appended to it at the end.
        cpus: Cores of a local Ray; by default those of the machine.
        dashboard: Start a local Ray with its dashboard.
        local: One that was started already, which its owner brings down.

    Raises:
        ClusterError: the cluster does not answer.
    """
    address, where = cluster_address(config), setting_of_address(config)
    refuse_silence(config)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    waiting: list[Beside] = []
    over = threading.Event()
    with ExitStack() as stack:
        if not address and local is None:
            started = LocalRay(
                log_file, workers=config.least_workers, cpus=cpus, dashboard=dashboard
            )
            local = stack.enter_context(closing(started))
        stack.callback(_end_ray, waiting, over)
        if local:
            _join_own(local.address())
        else:
            _join(address, where)
        _log_as_others_do()
        # Ray took it over, and would end the process before our runs are marked as killed.
        signal.signal(signal.SIGTERM, on_sigterm)
        nodes = tuple(list_nodes())
        prepared = prepared_worker() if local else []
        yield Session(nodes, Mailbox.start(), local is not None, prepared, waiting, over)


def _end_ray(waiting: list[Beside], over: threading.Event) -> None:
    """Bring Ray down, and wait for what waits in it: at the end of the interpreter it would crash it."""
    over.set()
    ray.shutdown()
    deadline = time.monotonic() + THREAD_SECONDS
    for one in waiting:
        if one.is_begun():
            one.wait(max(0.0, deadline - time.monotonic()))


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


def _join_own(address: str) -> None:
    """Join a Ray of this machine, which has a token unless somebody has said otherwise.

    Ray does these two steps itself, and in no public function, for a Ray that it starts or finds.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    Config.initialize("")
    ray.init(address, **QUIET)


def _join(address: str, where: str) -> None:
    try:
        ray.init(address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if "AuthenticationError" in f"{error} {error.__cause__}":
            raise wants_token(address) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
        msg = f"{where} = {address!r}: cannot be joined ({reason})"
        raise ClusterError(msg) from error
