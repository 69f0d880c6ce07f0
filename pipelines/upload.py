"""What goes to a cluster with a job: code, settings and the command; and what comes back in its log."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w
from packaging.requirements import Requirement

import imgrec
import pipelines
from imgrec.config import Config
from imgrec.errors import ClusterError, ConfigError, reason_of
from imgrec.tracking.connection import refuse_local_record, tracking_uri
from pipelines.request import Request, RunFlags, absolute

CONFIG = "run.toml"
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def last_object(log: str) -> Any:
    """What `--json` printed at the end of a log; None where there is no such thing."""
    end = log if log.startswith("{\n") else log[log.rfind("\n{\n") + 1 :]
    try:
        return json.JSONDecoder().raw_decode(end)[0] if end.startswith("{\n") else None
    except ValueError:
        return None


def refuse_local(config: Config) -> None:
    """Raise ConfigError where a setting means this machine, on which the job will not run."""
    refuse_local_record(config.tracking, Path(config.storage))
    if config.storage == str(Path("mlruns").absolute()):
        msg = (
            f"storage = {config.storage!r}: a folder of this machine; on a cluster set one that "
            f"every node sees under the same path: storage=/mnt/shared/imgrec"
        )
        raise ConfigError(msg)


def words_for(command: str, request: Request, flags: RunFlags) -> list[str]:
    """The command as the head node will run it, in the uploaded folder."""
    words = ["python", "-m", "pipelines", command]
    if command in {"train", "tune"}:
        words += ["--arch", *request.config.archs]
    given = {
        "--fresh": flags.fresh,
        "--json": flags.as_json,
        "--quiet": flags.quiet,
        "--profile": flags.profile,
    }
    return [*words, CONFIG, *(flag for flag, is_set in given.items() if is_set)]


def settings_for(request: Request) -> str:
    """The settings as they were written, as one TOML file, which is checked again on the head node.

    What depends on this machine's current folder or its environment is said in full.
    """
    config = request.config
    full = {
        "storage": config.storage,
        "data": request.written.get("data", {}) | {"source": absolute(config.data.source)},
        "tracking": request.written.get("tracking", {})
        | {"uri": tracking_uri(config.tracking, Path(config.storage))},
    }
    return tomli_w.dumps(request.written | full)


@contextmanager
def packed(request: Request) -> Iterator[Path]:
    """A folder with the code and the settings, and nothing else: never data, mlruns or .git."""
    with tempfile.TemporaryDirectory(prefix="imgrec-upload-") as temporary:
        folder = Path(temporary)
        try:
            for package in (imgrec, pipelines):
                source = Path(str(package.__file__)).parent
                shutil.copytree(source, folder / source.name, ignore=IGNORED)
            (folder / CONFIG).write_text(settings_for(request), encoding="utf-8")
        except OSError as error:
            msg = f"{folder}: what is to be sent cannot be copied there ({reason_of(error)})"
            raise ClusterError(msg) from error
        yield folder


def upload_digest(folder: Path, words: list[str]) -> str:
    """A short hash of the code, the settings and the command."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in uploaded_files(folder):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def uploaded_files(folder: Path) -> list[Path]:
    """All files below the folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def installed_packages() -> list[str]:
    """What imgrec depends on, in the versions of this environment."""
    needed = [Requirement(text) for text in metadata.requires("imgrec") or []]
    return [
        f"{one.name}{f'[{extras}]' if (extras := ','.join(sorted(one.extras))) else ''}"
        f"=={metadata.version(one.name)}"
        for one in needed
        if one.marker is None or one.marker.evaluate({"extra": ""})
    ]
