"""What paths say of classes and splits: `train/cat/1.jpg`, or `cat/1.jpg`."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from imgrec.data.sources.sample import SPLIT_NAMES, Split
from imgrec.errors import DataError


def labels_and_splits(paths: Sequence[PurePosixPath], where: str) -> list[tuple[str, Split | None]]:
    """For each path the class and split of its folders; the class is empty where it has no folder.

    The same rules as for folders on this machine (`folder.py`), which can also see empty ones. A
    common parent of all paths is ignored.

    Raises:
        DataError: there are splits, but none is train, or something else lies beside them.
    """
    parts = [path.parts for path in paths]
    while len({one[0] for one in parts}) == 1 and min(len(one) for one in parts) > 2:
        parts = [one[1:] for one in parts]
    tops = {one[0] for one in parts if len(one) > 1}
    # A class may be called "train" (the railway): split folders hold nothing but class folders.
    deep = {one[0] for one in parts if len(one) > 2}
    splits = {top: SPLIT_NAMES[top.lower()] for top in deep if top.lower() in SPLIT_NAMES}
    if "train" in splits.values():
        if strangers := sorted(tops - set(splits)):
            msg = f"{where}: {strangers[0]} beside train is neither val nor test; rename or move it"
            raise DataError(msg)
        return [(one[1], splits[one[0]]) if len(one) > 2 else ("", None) for one in parts]
    if splits and set(splits) == tops:
        msg = f"{where}: has {', '.join(sorted(tops))} but no train folder"
        raise DataError(msg)
    return [(one[0] if len(one) > 1 else "", None) for one in parts]
