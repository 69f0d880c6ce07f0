"""A registered model found by a process of its own.

MLflow takes a second to import, and so does torch. Whoever needs both for one answer lets another core do the one.
This module imports little, so that the process starts early: before the settings are read.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.errors import ImgrecError, disk_failure
from imgrec.machine import collect_seldom, module_paths

if TYPE_CHECKING:
    from imgrec.config import TrackingConfig

Find = Callable[[], Path]
Ask = Callable[["TrackingConfig", Path, str], Find]
ENTRY = (
    "import sys; number, *paths = sys.argv[1:]; sys.path[:0] = paths; "
    "from imgrec.tracking.finding import answer; answer(int(number))"
)


@contextmanager
def registered_folders() -> Iterator[Ask]:
    """Start a process that imports MLflow; inside, the function `ask` sends it one request.

    `ask(config, storage, model)` takes the tracking settings, the folder that runs write to, and a model as in
    `fetch_classifier`. It returns a function that waits for the answer: the local folder of the classifier, which exists
    until the end of the context. That function raises TrackingError if MLflow does not answer or there is no such model,
    version or alias, and ClassifierError if a file has changed since the model was registered.
    """
    ours, theirs = Pipe()
    with tempfile.TemporaryDirectory(prefix="imgrec-") as copy, ours:
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-P", "-c", ENTRY, str(theirs.fileno()), *module_paths()],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is answered by whoever waits
            )

        def ask(config: "TrackingConfig", storage: Path, model: str) -> Find:
            with suppress(ConnectionError):  # `_found` will say so
                ours.send((config, storage.absolute(), model, Path(copy)))
            return partial(_found, ours, process)

        try:
            yield ask
        finally:
            process.kill()
            process.wait()


def _found(pipe: "Connection[Any, Any]", process: subprocess.Popen[bytes]) -> Path:
    try:
        found = pipe.recv()
    except (EOFError, ConnectionError):  # it has said why on standard error
        msg = f"the process that asks MLflow ended with status {process.wait()}"
        raise RuntimeError(msg) from None
    if isinstance(found, ImgrecError):
        raise found
    folder, note = found
    if note:
        sys.stderr.write(f"imgrec: {note}\n")
    return Path(folder)


def answer(number: int) -> None:
    """What the process does: it is asked for one model.

    Args:
        number: Of its end of the pipe.
    """
    collect_seldom()
    from imgrec.tracking.connection import connect  # noqa: PLC0415 - nobody else is to wait for it
    from imgrec.tracking.versions import fetch_version, find_version  # noqa: PLC0415

    with Connection(number) as pipe:
        try:
            config, storage, model, copy = pipe.recv()
        except EOFError:  # whoever wanted to ask is gone
            return
        try:
            tracking = connect(config, storage, create=False)
            version = find_version(tracking, model)
            folder = fetch_version(tracking, version, None if tracking.is_local else copy)
        except ImgrecError as error:
            pipe.send(error)
        except Exception as error:
            if not (failure := disk_failure(error)):
                raise
            pipe.send(failure)
        else:
            pipe.send((folder, tracking.note))
