"""Where the chatter of libraries goes: a file, so that the screen stays for the run."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from imgrec.errors import ConfigError


def log_to_file(storage: Path) -> Path:
    """Send what this process logs, warnings included, to a new file below storage."""
    folder = storage / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"storage = {str(storage)!r}: cannot be written to ({error.strerror})"
        raise ConfigError(msg) from error
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    return path


@contextlib.contextmanager
def chatter_to(log_file: Path) -> Iterator[None]:
    """What libraries print inside goes to the log file: Ray announces a dead worker on stdout.

    A display that is to be seen holds on to the stream that it had before.
    """
    with (
        log_file.open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield
