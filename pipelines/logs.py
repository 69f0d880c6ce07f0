"""Where the chatter of libraries goes: a file, so that the screen stays for the run."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

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
    # What libraries and workers say may hold what only its owner is to see.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
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

    Those written in C++ write to the file behind the stream, so that is exchanged. A display that is to be
    seen holds on to a copy of the one that it had before (`own_stderr`).
    """
    with log_file.open("a", encoding="utf-8") as log, contextlib.ExitStack() as stack:
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            stream.flush()
            kept = os.dup(number)
            os.dup2(log.fileno(), number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        yield


def own_stderr() -> TextIO:
    """Standard error as it is now, whatever is put in its place later."""
    try:
        number = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # it is no file, as in a notebook
        return sys.stderr
    return os.fdopen(number, "w", encoding=sys.stderr.encoding, errors="backslashreplace")
