"""A tree of folders, as every kind of source makes it."""

import mimetypes
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from imgrec.data.sources.clutter import clutter_in, is_clutter


@dataclass
class Node:
    """A folder.

    Attributes:
        name: Its own.
        folders: Those in it, by name.
        files: Those in it: the name, and what the source keeps of it.
    """

    name: str
    folders: "dict[str, Node]" = field(default_factory=dict)
    files: list[tuple[str, Any]] = field(default_factory=list)

    def at(self, parts: Iterable[str]) -> "Node":
        """The folder at a path below, made if need be."""
        node = self
        for part in parts:
            node = node.folders.setdefault(part, Node(part))
        return node

    def all_files(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Every file at any depth: its path below, and what is kept of it."""
        for name, kept in self.files:
            yield prefix + name, kept
        for folder in self.folders.values():
            yield from folder.all_files(f"{prefix}{folder.name}/")

    @property
    def is_empty(self) -> bool:
        """Whether there is no file in it at any depth."""
        return not self.files and all(folder.is_empty for folder in self.folders.values())

    @property
    def has_pictures(self) -> bool:
        """Whether a picture lies in it itself, by its name."""
        return any(looks_like_picture(name) for name, _ in self.files)


def tree_of(paths: Iterable[tuple[str, Any]], ignored: Counter[str]) -> Node:
    """A tree of paths with slashes, each with what the source keeps of it; clutter is left out and counted."""
    root = Node("")
    nodes: dict[str, Node | None] = {}
    clutter: set[str] = set()
    for path, kept in paths:
        above, _, name = path.rpartition("/")
        if above not in nodes:
            parts = [part for part in above.split("/") if part not in {"", "."}]
            found = clutter_in(parts)
            clutter |= {found} - {""}
            nodes[above] = None if found else root.at(parts)
        node = nodes[above]
        if node and is_clutter(name):
            clutter.add(path)
        elif node:
            node.files.append((name, kept))
    if clutter:
        ignored[CLUTTER] += len(clutter)
    return root


CLUTTER = "files or folders of desktops and storage systems"


def looks_like_picture(name: str) -> bool:
    """Whether a name ends as those of pictures do; other files beside class folders are left alone."""
    return _is_picture_ending(name.rpartition(".")[2].lower()) and not name.startswith(".")


@cache
def _is_picture_ending(ending: str) -> bool:
    kind, _ = mimetypes.guess_type(f"a.{ending}")
    return kind is not None and kind.startswith("image/")
