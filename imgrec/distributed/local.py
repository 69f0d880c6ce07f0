"""A Ray of this machine alone, as its driver sees it. Imports no Ray, so it is started before all imports."""

import contextlib
import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
from pathlib import Path

from imgrec.config import ClusterConfig, SearchConfig
from imgrec.distributed.address import cluster_address
from imgrec.errors import ClusterError
from imgrec.machine import locked, memory_limit, module_paths

# Of Ray, the driver and one worker together, and of each further worker, on the smallest of data (docs/results.md).
LEAST_MEMORY, MEMORY_OF_A_WORKER = 2_600_000_000, 600_000_000
END_SECONDS = 30.0
ASKED = ("least_workers", "most_workers", "cpus_per_worker", "use_gpu")
"""Of the settings, what the first worker holds goes by (`demand.Asked`)."""
ENTRY = (
    "import json, sys; asked = json.loads(sys.argv[1]); sys.path[:0] = asked.pop('paths'); "
    "from imgrec.distributed.head import hold_ray; hold_ray(**asked)"
)


class LocalRay:
    """The process that holds a Ray (`imgrec.distributed.head`); the constructor returns before it is up.

    Args:
        log_file: The logs of Ray and of its workers are appended to it.
        workers: How many a run will have at least.
        cpus: Cores; by default those of the machine.
        dashboard: Start it with its dashboard, which trials with several workers need: through it Ray learns that
            a trainer was killed, and frees what its workers held.
        first: What is asked of a worker that is to come up with it, if a lane is what comes first.

    Raises:
        ClusterError: the machine has too little memory.
    """

    def __init__(
        self,
        log_file: Path,
        *,
        workers: int,
        cpus: int | None = None,
        dashboard: bool = False,
        first: ClusterConfig | None = None,
    ) -> None:
        _refuse_little_memory(workers)
        self._log_file = log_file
        self._said: dict[str, str] | None = None
        provide_token(log_file)
        # Nobody takes this machine away, and to watch for it is a process more at every start.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        reading, writing = os.pipe()
        asked = {
            "log_file": str(log_file.absolute()),
            "answer": writing,
            "cpus": cpus,
            "dashboard": dashboard,
            "worker": first and {name: getattr(first, name) for name in ASKED},
            "paths": module_paths(),
        }
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this Python, and words of ours
                [sys.executable, "-P", "-c", ENTRY, json.dumps(asked)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                # Ctrl-C is the driver's alone. The session is the same: Linux divides cores among sessions first, and
                # only within one among processes by what they are worth.
                process_group=0,
            )
        os.close(writing)
        self._answer = os.fdopen(reading, encoding="utf-8")

    def is_up(self) -> bool:
        """Whether `address` would not wait."""
        return self._said is not None or bool(select.select([self._answer], [], [], 0)[0])

    def address(self) -> str:
        """Of Ray, once it is up.

        Raises:
            ClusterError: it did not come up.
        """
        if self._said is None:
            self._said = json.loads(self._answer.readline() or "{}")
        if "address" not in self._said:
            reason = self._said.get("error", "its process has ended")
            msg = f"Ray did not come up on this machine ({reason}); {self._log_file} says more"
            raise ClusterError(msg)
        return self._said["address"]

    def end(self) -> None:
        """Let Ray go down; returns at once."""
        assert self._process.stdin
        self._process.stdin.close()
        self._answer.close()

    def wait(self) -> None:
        """Return when nothing of Ray is left, and what its workers said is in the log file."""
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Bring Ray down."""
        self.end()
        self.wait()


def start_local(cluster: ClusterConfig, search: SearchConfig, log_file: Path) -> LocalRay | None:
    """The Ray of this machine for a run; None where it joins a cluster.

    Also where it cannot be had: what is on record already needs none, and `ray_session` says why.
    """
    if cluster_address(cluster):
        return None
    nested = search.wanted and search.workers_per_trial > 1
    with contextlib.suppress(ClusterError):
        first = None if search.wanted else cluster
        return LocalRay(log_file, workers=cluster.least_workers, dashboard=nested, first=first)
    return None


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


def memory_for_more() -> int:
    """Bytes that this machine, or its container, has beside what a run with one worker takes at least."""
    return max(0, memory_limit() - LEAST_MEMORY)


def provide_token(log_file: Path) -> None:
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
