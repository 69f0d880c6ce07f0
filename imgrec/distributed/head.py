"""The process that holds a local Ray. It goes down with the driver, however that ends.

It is one of its own, so that Ray comes up while the driver imports, and so that Ray's folder for temporary files is
no concern of the driver's.
"""

import json
import logging
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray.actor import ActorHandle

from imgrec.distributed.lone_worker import prepare_worker
from imgrec.errors import reason_of
from imgrec.machine import SHARED_MEMORY, locked

# Lines that say nothing: Ray's markers, and a complaint about the dashboard that we do not start.
RANDOM = (":", "Failed to query Ray Train Controller actor state")
PREFIX, RAY, TMP = "imgrec-", "ray", "tmp"
TEMPORARY = ("TMPDIR", "RAY_TMPDIR")
"""Environment variables that name the folder for temporary files, where Ray also looks for an address."""
# Ray's default would reserve a third of the memory; the pictures come from the store's own map.
OBJECT_STORE_BYTES = 256 * 1024 * 1024


def hold_ray(
    log_file: str,
    answer: int,
    *,
    cpus: int | None,
    dashboard: bool,
    worker: dict[str, Any] | None,
) -> None:
    """Bring Ray up, say where it is, and bring it down when standard input ends.

    Args:
        log_file: The logs of Ray's workers are appended to it at the end.
        answer: The number of an open file, which gets one line of JSON: the address, or the error.
        cpus: Cores; by default those of the machine.
        dashboard: Start the dashboard as well.
        worker: What is `Asked` of the first worker, to let it come up at once; None where none is known to be wanted.
    """
    with session_folder() as folder:
        (folder / TMP).mkdir()
        os.environ.update(dict.fromkeys(TEMPORARY, str(folder / TMP)))
        prepared = None  # which would go with the last that knows it
        try:
            said = {"address": _come_up(folder, cpus, dashboard=dashboard)}
            if worker:
                prepared = _prepared(worker)
        except Exception as error:
            logging.getLogger(__name__).exception("Ray did not come up")
            said = {"error": reason_of(error)}
        try:
            with os.fdopen(answer, "w", encoding="utf-8") as line:
                line.write(json.dumps(said) + "\n")
            sys.stdin.read()
            del prepared
        finally:
            ray.shutdown()
            keep_logs(folder / RAY, Path(log_file))


def _prepared(asked: dict[str, Any]) -> ActorHandle | None:
    """The first worker, on its way; without it, one comes up when it is asked for."""
    try:
        return prepare_worker(SimpleNamespace(**asked))
    except Exception:
        logging.getLogger(__name__).exception("the first worker could not be prepared")
        return None


def _come_up(folder: Path, cpus: int | None, *, dashboard: bool) -> str:
    ray.init(
        "local",
        num_cpus=cpus,
        include_dashboard=dashboard,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=str(folder / RAY),
        _plasma_directory=None if _has_shared_memory() else str(folder),
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    address = str(ray.get_runtime_context().gcs_address)
    # Where Ray's own processes look for an address, as `ray start` writes it. Ray Train asks the cluster that it
    # finds by itself whether a trainer lives: with another Ray on this machine it would find two, ask neither, and
    # never free what a stopped trial holds.
    note = folder / TMP / "ray" / "ray_current_cluster"
    note.parent.mkdir(exist_ok=True)
    note.write_text(address, encoding="utf-8")
    return address


def _has_shared_memory() -> bool:
    """Whether Ray's objects can lie where it puts them by itself; elsewhere they are a little slower."""
    return not sys.platform.startswith("linux") or os.access(SHARED_MEMORY, os.W_OK)


@contextmanager
def session_folder() -> Iterator[Path]:
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


def keep_logs(ray_folder: Path, log_file: Path) -> None:
    """Append what workers printed, before Ray's folder goes; of files that are ours, and no links."""
    with log_file.open("a", encoding="utf-8") as log:
        for path in sorted(ray_folder.glob("session_2*/logs/worker-*.*")):
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
