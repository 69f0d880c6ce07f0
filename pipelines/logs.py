"""Where the chatter of libraries goes: a file, so that the screen stays for the run."""

import logging
import os
import time
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
