"""A folder of class folders, with or without train/, val/ and test/ above them."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from imgrec.data.content import File, Missing
from imgrec.data.sources.clutter import is_clutter
from imgrec.data.sources.node import CLUTTER, Node, looks_like_picture
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.sample import Named, Sample
from imgrec.data.sources.tree import PLAIN, Layout, Rule, read_tree
from imgrec.errors import DataError

STRAY = Missing("lies in no class folder")


@dataclass(frozen=True)
class Folder:
    """A folder on this machine, or on a disk that all machines see."""

    path: Path
    rule: Rule = PLAIN

    def __iter__(self) -> Iterator[Sample]:
        """Every file below a class folder, sorted by path; then pictures that lie beside them."""
        root = f"{self.path}/"
        for one in self._layout.classes:
            for name, _ in one.files:
                path = one.path + name
                yield Sample(path, File(root + path), one.label, one.split)
        for path, _ in self._layout.strays:
            yield Sample(path, STRAY, "")

    def pictures(self) -> Iterator[Named]:
        """Every picture by its name, at any depth, sorted by path; each link to one too, for it has a name of its own."""
        root = f"{self.path}/"
        tree, _ = self._walk(every_link=True)
        for name, _ in sorted(tree.all_files()):
            if looks_like_picture(name):
                yield name, File(root + name)

    def state(self) -> Any:
        """Names, sizes and times of all files: a million in seconds, where reading takes hours."""
        files = [
            [one.path + name, *state] for one in self._layout.classes for name, state in one.files
        ]
        return [*files, *([path] for path, _ in self._layout.strays)]

    def reading(self) -> Reading:
        """What was taken for what."""
        return self._layout.reading

    def _walk(self, *, every_link: bool) -> tuple[Node, Counter[str]]:
        try:
            return _Walk(str(self.path), every_link=every_link).tree()
        except OSError as error:
            msg = f"{error.filename}: {error.strerror}"
            raise DataError(msg) from error

    @cached_property
    def _layout(self) -> Layout:
        tree, ignored = self._walk(every_link=False)
        return read_tree(tree, str(self.path), self.rule, ignored)


class _Walk:
    """A folder and all below it. Links are followed at the end, and not to what is there already.

    So a picture counts once, under the class in whose folder it really lies.
    """

    def __init__(self, root: str, *, every_link: bool) -> None:
        self._root = root
        self._every_link = every_link
        self._real = os.path.realpath(root)
        self._links: list[tuple[Node, str, str]] = []
        self._entered: set[str] = set()
        self._above: set[str] = set()
        self._enter(self._real)
        self._linked_files: set[str] = set()
        self._ignored: Counter[str] = Counter()

    def tree(self) -> tuple[Node, Counter[str]]:
        """The tree, and what was left out."""
        root = Node("")
        self._fill(root, self._root)
        while self._links:
            links, self._links = sorted(self._links, key=lambda link: link[2]), []
            for node, name, path in links:
                self._follow(node, name, path)
        return root, self._ignored

    def _fill(self, node: Node, folder: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_clutter(entry.name):
                    self._ignored[CLUTTER] += 1
                elif entry.is_dir(follow_symlinks=False):
                    self._fill(node.at([entry.name]), entry.path)
                elif not entry.is_symlink():
                    node.files.append((entry.name, _state_of(entry)))
                elif entry.is_dir():
                    self._links.append((node, entry.name, entry.path))
                elif self._is_new(entry.path):
                    node.files.append((entry.name, _state_of(entry)))
                else:
                    self._ignored["links to pictures that are there already"] += 1

    def _is_new(self, link: str) -> bool:
        """Whether a link to a file leads out of the folder, and to what no other has led to; or each counts."""
        if self._every_link:
            return True
        # Without looking at every folder on the way, as realpath does: there may be a million links.
        target = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))  # noqa: PTH115, PTH118, PTH120
        if target in self._linked_files or _is_below(target, self._real, self._root):
            return False
        self._linked_files.add(target)
        return True

    def _follow(self, node: Node, name: str, link: str) -> None:
        real = os.path.realpath(link)
        if real in self._above or any(one in self._entered for one in _with_parents(real)):
            self._ignored["links to folders that are there already"] += 1
            return
        self._enter(real)
        self._fill(node.at([name]), link)

    def _enter(self, real: str) -> None:
        self._entered.add(real)
        self._above.update(_with_parents(real))


def _with_parents(path: str) -> Iterator[str]:
    """A path, and every folder above it."""
    while True:
        yield path
        above = os.path.dirname(path)  # noqa: PTH120 - text, for there may be a million
        if above == path:
            return
        path = above


def _is_below(path: str, *folders: str) -> bool:
    return any(path == folder or path.startswith(f"{folder.rstrip('/')}/") for folder in folders)


def file_state(path: Path, name: str) -> list[Any]:
    """Name, size, time and kind of a file."""
    try:
        status = path.stat()
    except OSError as error:
        return [name, str(error.strerror)]
    return [name, status.st_size, status.st_mtime_ns, status.st_mode]


def _state_of(entry: os.DirEntry[str]) -> list[Any]:
    try:
        status = entry.stat()
    except OSError as error:
        return [str(error.strerror)]
    return [status.st_size, status.st_mtime_ns, status.st_mode]
