"""Archives of pictures: WebDataset shards, or a packed folder of class folders, as tar or zip.

Nothing is unpacked: pictures are read where they lie.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from imgrec.data.content import Missing
from imgrec.data.parallel import map_in_chunks
from imgrec.data.sources.folder import file_state
from imgrec.data.sources.members import (
    Contents,
    Label,
    contents_of,
    contents_of_some,
    key_of,
    refuse_shared_labels,
    split_folder,
)
from imgrec.data.sources.node import CLUTTER, looks_like_picture, tree_of
from imgrec.data.sources.parquet import split_of_file
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.sample import SPLIT_NAMES, Named, Progress, Sample, Split, nothing_told
from imgrec.data.sources.tree import PLAIN, Rule, read_tree
from imgrec.errors import DataError

MOST_NAMED = 4
LEAST_SHARED = 4
"""Archives whose lists are read by several processes; to start those takes as long as a list of some thousand."""


@dataclass(frozen=True)
class Archives:
    """Archives, each with pictures and their labels.

    The label of `a/7.jpg` is what `a/7.cls` holds, or else `label` (or `class`) in `a/7.json`: what belongs together
    has the same name up to the first dot, as WebDataset has it. Where there are no such files at all, folders say class
    and split.

    Attributes:
        paths: The files. Of several those called `train-...`, or in a folder `train`, are the split
            train.
        rule: How folders are read.
        image_ending: `data.image_ending`.
        plain: Where they are read, of those that are compressed as a whole the unpacked ones; without, the files.
        workers: Processes that read lists of members side by side; 0 means one a core.
        progress: Told how many lists are read.
    """

    paths: tuple[Path, ...]
    rule: Rule = PLAIN
    image_ending: str = ""
    plain: tuple[Path, ...] = ()
    workers: int = 0
    progress: Progress = field(default=nothing_told, compare=False)

    def __iter__(self) -> Iterator[Sample]:
        """File by file, in the members' order."""
        for number, (path, name) in enumerate(self._names()):
            held = self._labelled[number]
            for member, content in held.pictures.items():
                label, split = held.labels.get(key_of(member)), None
                if label is not None:
                    split = self._splits_of_folders.get(split_folder(member))
                else:
                    if (number, member) not in self._by_folder.known:
                        continue  # of what no folder holds classes, or no picture
                    text, split = self._by_folder.known[number, member]
                    label = Label(text)
                if label.problem:
                    content = Missing(label.problem)  # noqa: PLW2901 - what there is of it
                yield Sample(f"{name}:{member}", content, label.text, split or self._split(path))

    def pictures(self) -> Iterator[Named]:
        """Whatever has a label beside it, or is a picture by its name."""
        for (_, name), held in zip(self._names(), self._held, strict=True):
            for member, content in held.pictures.items():
                if key_of(member) in held.labels or looks_like_picture(member.name):
                    yield f"{name}:{member}", content

    def state(self) -> Any:
        """Of the files."""
        return [file_state(path, str(path)) for path in self.paths]

    def reading(self) -> Reading:
        """What was taken for what."""
        folders = self._by_folder.reading
        what = f"{len(self.paths):,} archives" if len(self.paths) > 1 else "an archive"
        files: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            if split := self._split(path):
                files[split].append(path.name)
        splits = {split: _told(names) for split, names in files.items()}
        if folders is None:
            ignored = {CLUTTER: count} if (count := self._clutter) else {}
            return Reading(what, "what lies beside each picture (.cls, .json)", splits, ignored)
        layout = f"{what} of {folders.layout}"
        return Reading(
            layout, folders.labels, {**splits, **folders.splits}, folders.ignored, folders.notes
        )

    def _split(self, path: Path) -> Split | None:
        """One file holds everything, whatever it is called."""
        return split_of_file(path) if len(self.paths) > 1 else None

    def _names(self) -> Iterator[tuple[Path, str]]:
        """The files, and what each is called."""
        root = os.path.commonpath([path.parent for path in self.paths])
        return ((path, path.relative_to(root).as_posix()) for path in self.paths)

    @cached_property
    def _held(self) -> list[Contents]:
        paths = self.plain or self.paths
        if len(paths) < LEAST_SHARED:
            return [contents_of(path, self.image_ending) for path in paths]
        held: list[Contents] = []
        for some in map_in_chunks(
            contents_of_some, paths, self.image_ending, workers=self.workers, most_chunk=1
        ):
            for one in some:
                if isinstance(one, Missing):
                    msg = f"{paths[len(held)]}: its list of members {one.reason}; pack it into several"
                    raise DataError(msg)
                held.append(one)
            self.progress("reading lists of archives", len(held), len(paths))
        return held

    @cached_property
    def _labelled(self) -> list[Contents]:
        """The same, where each label belongs to one picture."""
        for path, held in zip(self.plain or self.paths, self._held, strict=True):
            refuse_shared_labels(path, held)
        return self._held

    @cached_property
    def _by_folder(self) -> "_ByFolder":
        """Class and split of the pictures, where folders say them.

        Of all archives together: a shard may hold one class alone. Where labels lie beside pictures, one without has
        none: its folder is not a class.
        """
        bare = [
            (str(member), (number, member))
            for number, held in enumerate(self._labelled)
            for member in held.pictures
            if key_of(member) not in held.labels
        ]
        in_folders = any("/" in path.removeprefix("./") for path, _ in bare)
        labelled = any(held.labels for held in self._held)
        if labelled or not (in_folders or self.rule.pattern):
            strays = [kept for path, kept in bare if looks_like_picture(path)]
            return _ByFolder(dict.fromkeys(strays, ("", None)), None)
        ignored = Counter({CLUTTER: count} if (count := self._clutter) else {})
        layout = read_tree(tree_of(bare, ignored), str(self.paths[0]), self.rule, ignored)
        known: dict[_Place, tuple[str, Split | None]] = {
            kept: (one.label, one.split) for one in layout.classes for _, kept in one.files
        }
        known |= dict.fromkeys((kept for _, kept in layout.strays), ("", None))
        return _ByFolder(known, layout.reading)

    @cached_property
    def _splits_of_folders(self) -> dict[str, Split]:
        """Of pictures with labels beside them: the folders train, val and test that they lie in, if there is a train."""
        names = {
            split_folder(member)
            for held in self._held
            for member in held.pictures
            if key_of(member) in held.labels
        }
        splits = {name: SPLIT_NAMES[name] for name in names - {""}}
        return splits if "train" in splits.values() else {}

    @property
    def _clutter(self) -> int:
        return sum(len(held.clutter) for held in self._held)


def _told(names: Sequence[str]) -> str:
    """A few names, or of many the first and the last."""
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{len(names):,} archives, {names[0]} to {names[-1]}"


_Place = tuple[int, PurePosixPath]
"""The number of an archive, and a name in it."""


@dataclass(frozen=True, slots=True)
class _ByFolder:
    """What folders say of pictures without labels of their own; strays have none. And how the folders were read."""

    known: dict[_Place, tuple[str, Split | None]]
    reading: Reading | None
