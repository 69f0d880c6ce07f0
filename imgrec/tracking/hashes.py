"""Whether a registered model's files are as they were: a hash of each stands in the version's tags.

The tags lie in MLflow's database, the files in a folder or a bucket that more people may write to.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from imgrec.errors import ClassifierError
from imgrec.tracking.tags import FILES

CHARACTERS_A_TAG = 4500
# What MLflow itself adds, or writes anew, whenever a version is downloaded.
NOT_OURS = frozenset({"registered_model_meta"})


def hash_tags(folder: Path) -> dict[str, str]:
    """The hashes of all files below a folder, as tags that MLflow has room for."""
    text = json.dumps(_hashes_of(folder), sort_keys=True, separators=(",", ":"))
    parts = [text[at : at + CHARACTERS_A_TAG] for at in range(0, len(text), CHARACTERS_A_TAG)]
    return {f"{FILES}{number}": part for number, part in enumerate(parts)}


def refuse_changed(folder: Path, tags: Mapping[str, str], what: str) -> None:
    """Raise ClassifierError where a file was changed, added or removed since `hash_tags`.

    Args:
        folder: With the files as they are now.
        tags: Of the version.
        what: What the files are, for people.
    """
    parts = {int(name.removeprefix(FILES)): text for name, text in tags.items() if _is_part(name)}
    try:
        known = json.loads("".join(parts[number] for number in sorted(parts)))
        known = dict(known)
    except (ValueError, TypeError) as error:
        msg = f"{what}: has no list of its files' hashes; register it again, by a run with --fresh"
        raise ClassifierError(msg) from error
    present = _hashes_of(folder)
    for name in sorted(known.keys() | present.keys()):
        if known.get(name) == present.get(name):
            continue
        how = (
            "was added"
            if name not in known
            else "is gone"
            if name not in present
            else "was changed"
        )
        msg = f"{what}: {name} {how} since the model was registered; it is not loaded ({folder})"
        raise ClassifierError(msg)


def _is_part(tag: str) -> bool:
    return tag.startswith(FILES) and tag.removeprefix(FILES).isdecimal()


def _hashes_of(folder: Path) -> dict[str, str]:
    """Of every file, also behind links. Not of what Python compiles: our own loads run no code of a model."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for place, _, names in sorted(os.walk(folder, followlinks=True))
        for path in (Path(place, name) for name in sorted(names))
        if path.is_file() and path.name not in NOT_OURS and "__pycache__" not in path.parts
    }
