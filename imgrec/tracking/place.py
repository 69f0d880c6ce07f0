"""The embedded store as a file: made whole or not at all, and found again where its folder was moved to.

MLflow keeps the addresses of artifacts in its database, in full. Where `mlruns` was copied, renamed or
mounted under another path they lead nowhere, so they are written anew: once, in one transaction, and only
where what they lead to is gone from here.
"""

import json
import platform
import shutil
import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.store.tracking.dbmodels.models import Base

from imgrec.cache import cache_folder
from imgrec.errors import StorageError, TrackingError
from imgrec.machine import sync, write_durably

SQLITE = "sqlite:///"
ARTIFACTS = "artifacts"
NOTE = "place.json"
# MLflow takes a second to make its database, and writes to it all the time.
QUESTIONS = (
    "PRAGMA quick_check(1)",
    "SELECT version_num FROM alembic_version",
    "SELECT count(*) FROM experiments",
    "SELECT count(*) FROM registered_models",
)
"""To a database that is kept, whose answers tell whether it is whole and empty."""
QUIET_SECONDS, MOST_MAKING_SECONDS = 3.0, 30.0
# Of MLflow's schema, with the columns that hold addresses.
KNOWN_REVISIONS = frozenset({"dc11669786a5"})
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def make_database(file: Path) -> None:
    """Make MLflow's database beside its place, and move it there when it is whole.

    MLflow takes a second to make it, for it goes through all that its tables have ever been, and a process that is
    killed within would leave what nobody can use. So this machine keeps an empty one for the next time.
    """
    for left in file.parent.glob(
        f".{file.name}.*"
    ):  # of a process that was killed: we hold the lock
        left.unlink()
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    whole = draft.with_suffix(".whole")
    kept = _kept_database()
    try:
        if kept is None or not _copy_whole(kept, whole):
            MlflowClient(f"{SQLITE}{draft}", f"{SQLITE}{draft}").search_experiments(max_results=1)
            with closing(sqlite3.connect(draft)) as made, closing(sqlite3.connect(whole)) as copy:
                made.backup(copy)  # MLflow still holds the draft open
            if kept:
                _keep(whole, kept)
        whole.replace(file)
    finally:
        draft.unlink(missing_ok=True)
        whole.unlink(missing_ok=True)
    note_place(file)


def _kept_database() -> Path | None:
    """Where this machine keeps an empty database of this MLflow; None where it can keep nothing."""
    try:
        return cache_folder() / f"mlflow-{mlflow.__version__}.db"
    except StorageError:
        return None


def _copy_whole(kept: Path, copy: Path) -> bool:
    """Copy an empty database; False where there is none, or what is there is damaged, or no empty one of this MLflow."""
    try:
        shutil.copyfile(kept, copy)
        with closing(sqlite3.connect(copy)) as database:
            found = [database.execute(question).fetchone() for question in QUESTIONS]
            if found == [("ok",), (_get_latest_schema_revision(),), (0,), (0,)]:
                return True
    except (OSError, sqlite3.DatabaseError):
        pass
    copy.unlink(missing_ok=True)
    return False


def _keep(whole: Path, kept: Path) -> None:
    """Keep a copy without experiments: MLflow's first one names the folder that it was made in, and is made anew."""
    draft = kept.with_name(f"{kept.name}.{uuid.uuid4().hex}")
    try:
        for left in kept.parent.glob(f"{kept.name}.*"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > MOST_MAKING_SECONDS:
                left.unlink(missing_ok=True)
        shutil.copyfile(whole, draft)
        with closing(sqlite3.connect(draft)) as database:
            with database:
                database.execute("DELETE FROM experiments")
            database.execute("VACUUM")
        sync(draft)
        draft.replace(kept)
    except (OSError, sqlite3.DatabaseError):
        draft.unlink(missing_ok=True)  # a full disk: the next one takes a second too


def is_half_made(file: Path) -> bool:
    """Whether a process that was killed has left this of a database, which holds nothing yet.

    To be asked before MLflow is, which would go on with what there is, and mark it as whole.

    Raises:
        TrackingError: it is the database of another program.
    """
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in rows}
            version = None
            if "alembic_version" in tables:
                version = database.execute("SELECT version_num FROM alembic_version").fetchone()
            elif foreign := sorted(tables - Base.metadata.tables.keys()):
                msg = f"{file}: is the database of another program (it holds {foreign[0]}); name another file"
                raise TrackingError(msg)
            # MLflow makes its default experiment last.
            used = (
                "experiments" in tables
                and database.execute("SELECT 1 FROM experiments LIMIT 1").fetchone()
            )
    except sqlite3.DatabaseError:
        return False  # locked, or no database: MLflow's own words say which
    return not used and (version is None or version[0] != _get_latest_schema_revision())


def set_aside(file: Path) -> None:
    """Move what is half made away, once nobody is at work on it: MLflow makes a database without our lock.

    Raises:
        TrackingError: somebody is.
    """
    deadline = time.monotonic() + MOST_MAKING_SECONDS
    while is_half_made(file):
        if time.time() - file.stat().st_mtime > QUIET_SECONDS:
            file.rename(file.with_name(f"{file.name}.half-made-{time.strftime('%Y%m%d-%H%M%S')}"))
            return
        if time.monotonic() > deadline:
            msg = f"{file}: is being made by another program; try again when that is done"
            raise TrackingError(msg)
        time.sleep(0.2)


def note_place(file: Path) -> None:
    """Remember where the folder of a database is, and whose disk it is on."""
    content = {
        "path": str(file.parent),
        "host": platform.node(),
        "inode": file.parent.stat().st_ino,
    }
    write_durably(file.parent / NOTE, json.dumps(content))


def follow_move(file: Path) -> str:
    """Write the addresses of artifacts anew where the folder of a database was moved.

    Args:
        file: The database, in the folder that its artifacts lie in too.

    Returns:
        What was done, in a line for people; empty where nothing had to be.

    Raises:
        TrackingError: it was moved, and the addresses cannot be written anew; with what to do.
    """
    here = file.parent
    note = _note(here)
    with closing(sqlite3.connect(file, timeout=60)) as database:
        old = _old_place(database, here, note)
        if old is None or (old.exists() and not _is_copy(here, old, note)):
            # Where both can be seen, they may be two mounts of one storage: the old addresses still lead there.
            return ""
        if note and note["host"] != platform.node() and note["inode"] == here.stat().st_ino:
            msg = (
                f"{here}: is {old} on {note['host']}, which made it; mount it under that path here too, or, if "
                f"it was moved for good, remove {here / NOTE}"
            )
            raise TrackingError(msg)
        (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        if revision not in KNOWN_REVISIONS:
            msg = (
                f"{here}: was moved from {old}, and its database is of another MLflow (revision {revision}); "
                f"move it back, or make a link there: ln -s {here} {old}"
            )
            raise TrackingError(msg)
        earlier = list(here.glob(f"{file.name}.before-move-*"))
        kept = file.with_name(f"{file.name}.before-move-{time.strftime('%Y%m%d-%H%M%S')}")
        shutil.copyfile(file, kept)
        for one in earlier:
            one.unlink()
        kept.chmod(0o600)
        with database:
            for table, column in ADDRESSES:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - names of ours
                    f"WHERE substr({column}, 1, ?) = ?",
                    (
                        here.as_uri(),
                        len(old.as_uri()) + 1,
                        len(old.as_uri()) + 1,
                        f"{old.as_uri()}/",
                    ),
                )
    note_place(file)
    how = "is a copy of the one in" if old.exists() else "was moved here from"
    return f"the record {how} {old}: its addresses were written anew ({kept.name} is as it was)"


def _is_copy(here: Path, old: Path, note: dict[str, Any] | None) -> bool:
    """Whether this folder is a copy, beside which the original is still where it was."""
    if note is None or note["host"] != platform.node():
        return False
    return note["inode"] == old.stat().st_ino != here.stat().st_ino


def _old_place(
    database: sqlite3.Connection, here: Path, note: dict[str, Any] | None
) -> Path | None:
    """The folder that the database was in before, if that is not this one and addresses name it.

    Others that they name are of runs with a storage of their own, which were not moved.
    """
    rows = database.execute(
        "SELECT artifact_location, count(*) FROM experiments WHERE artifact_location LIKE 'file:///%' "
        "GROUP BY artifact_location ORDER BY count(*) DESC"
    ).fetchall()
    roots = [location.removesuffix(f"/{ARTIFACTS}") for location, _ in rows if _is_ours(location)]
    if note:
        roots = [root for root in roots if root == Path(note["path"]).as_uri()]
    others = [root for root in roots if root != here.as_uri()]
    return _path_of(others[0]) if others else None


def _is_ours(location: str) -> bool:
    return location.endswith(f"/{ARTIFACTS}")


def _path_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _note(here: Path) -> dict[str, Any] | None:
    try:
        note = json.loads((here / NOTE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return note if isinstance(note, dict) and {"path", "host", "inode"} <= note.keys() else None
