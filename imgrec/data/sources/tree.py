"""What a tree of folders says of classes and splits: one rule for folders, archives and remote places.

Every kind of source makes a tree of `Node`s and has it read here. A reading that could be another one is refused, with
the setting that answers it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from imgrec.data.sources.node import Node, looks_like_picture
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.sample import SPLIT_NAMES, SPLITS, Split
from imgrec.errors import DataError

LabelFrom = Literal["auto", "top", "leaf", "path"]
# Words in the name of a folder whose pictures nobody has labelled.
UNLABELLED = frozenset({"pred", "predict", "prediction", "submission", "unlabeled", "unlabelled"})
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
LISTED = 5
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
OF_DETECTION = frozenset({"images", "labels", "annotations", "masks"})


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """Files of one class.

    Attributes:
        path: From the root, with a slash at its end.
        label: The class.
        split: Where the source wants them, or None.
        files: Paths below it, and what the source keeps of each; sorted.
    """

    path: str
    label: str
    split: Split | None
    files: list[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Layout:
    """A tree as it was read.

    Attributes:
        classes: What has a class.
        strays: Pictures, by their names, that lie in no class folder: path, and what the source keeps.
        reading: For people.
    """

    classes: list[ClassFolder]
    strays: list[tuple[str, Any]]
    reading: Reading


@dataclass(frozen=True, slots=True)
class Rule:
    """How a tree is to be read.

    Attributes:
        label_from: `data.label_from`.
        pattern: `data.label_pattern`.
    """

    label_from: LabelFrom = "auto"
    pattern: str = ""


PLAIN = Rule()
"""Where the settings say nothing."""


def read_tree(root: Node, where: str, rule: Rule, ignored: Counter[str] | None = None) -> Layout:
    """The class and split of every file.

    Args:
        root: The tree, without clutter.
        where: The source, for errors.
        rule: How to read it.
        ignored: What was left out until now.

    Raises:
        DataError: there is no class folder, or what there is could be read in two ways.
    """
    reader = _Reader(where, rule.label_from, ignored or Counter())
    return reader.match(root, rule.pattern) if rule.pattern else reader.read(root)


@dataclass
class _Reader:
    where: str
    label_from: LabelFrom
    ignored: Counter[str]
    notes: list[str] = field(default_factory=list)
    classes: list[ClassFolder] = field(default_factory=list)
    strays: list[tuple[str, Any]] = field(default_factory=list)
    deeper: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def read(self, root: Node) -> Layout:
        base, path = self._unwrapped(root, "")
        splits = self._splits(base, path)
        self._keep_strays(base, path)
        layout = "class folders"
        if splits:
            layout += " in split folders"
            for split, (node, place) in sorted(splits.items(), key=lambda one: one[1][1]):
                self._keep_strays(node, place)
                self._read_classes(node, place, split)
        else:
            if not base.folders:
                names = [name for name, _ in base.files if looks_like_picture(name)]
                hint = f", or {hint}" if (hint := _pattern_hint(names)) else ""
                self._refuse(
                    f"no class folder in it; put the pictures of each class in one of its own{hint}"
                )
            self._refuse_views(base)
            self._read_classes(base, path, None)
            layout += f" in {path.rstrip('/')}" if path else ""
        if not self.classes:
            msg = f"{self.where}: no file in {_listed(self.empty)}; add pictures"
            raise DataError(msg)
        self._note_what_is_odd()
        labels = {
            "auto": "the name of its folder",
            "top": "the name of the folder on top",
            "leaf": "the name of the folder that it lies in",
            "path": "the path of its folder",
        }[self.label_from]
        places: dict[str, str] = {split: place.rstrip("/") for split, (_, place) in splits.items()}
        reading = Reading(layout, labels, places, dict(self.ignored), tuple(self.notes))
        return Layout(self.classes, self.strays, reading)

    def match(self, root: Node, pattern: str) -> Layout:
        """The same where names say the class: folders say the split alone."""
        finds = re.compile(pattern)
        base, path = self._unwrapped(root, "")
        splits = self._flat_splits(base)
        files: dict[tuple[str, Split | None], list[tuple[str, Any]]] = {}
        unmatched = 0
        for name, kept in base.all_files():
            found = finds.search(name)
            if found and found["label"]:
                split = splits.get(name.partition("/")[0])
                files.setdefault((found["label"], split), []).append((name, kept))
            else:
                unmatched += 1
        if unmatched:
            self.ignored["files whose path data.label_pattern does not match"] += unmatched
        if not files:
            self._refuse(f"no path matches data.label_pattern = {pattern!r}")
        classes = [
            ClassFolder(path, label, split, sorted(some))
            for (label, split), some in sorted(
                files.items(), key=lambda one: (one[0][1] or "", one[0][0])
            )
        ]
        places: dict[str, str] = {split: path + name for name, split in splits.items()}
        reading = Reading("files", f"what {pattern} finds in its path", places, dict(self.ignored))
        return Layout(classes, [], reading)

    def _flat_splits(self, base: Node) -> dict[str, Split]:
        """Folders of splits, which hold pictures or other folders; none without train."""
        full = _sorted(one for one in base.folders.values() if not one.is_empty)
        splits = {one.name: split for one in full if (split := _split_of(one.name))}
        if "train" not in splits.values() or self.label_from == "top":
            return {}
        names: dict[Split, str] = {}
        for name, split in splits.items():
            if split in names:
                self._refuse_both(names[split], name, split)
            names[split] = name
        for one in full:
            if one.name not in splits and any(
                looks_like_picture(name) for name, _ in one.all_files()
            ):
                self._refuse_beside_train(names, one.name)
        return splits

    def _unwrapped(self, node: Node, path: str, *, in_split: bool = False) -> tuple[Node, str]:
        """Down through folders that hold nothing but one other with class folders in it.

        At the top such a folder may hold pictures too, for one class alone would be none; in a split it is a class.
        """
        while len(full := [one for one in node.folders.values() if not one.is_empty]) == 1:
            (only,) = full
            if not only.folders or node.has_pictures or (in_split and only.has_pictures):
                break
            if _split_of(only.name) and not path.endswith(f"{only.name}/"):
                break  # a lone train/ is a split, but not the second of train/train/
            node, path = only, f"{path}{only.name}/"
        return node, path

    def _splits(self, base: Node, path: str) -> dict[Split, tuple[Node, str]]:
        """The split folders, without wrappers: they hold class folders. None where classes lie on top."""
        found: dict[Split, tuple[Node, str]] = {}
        names: dict[Split, str] = {}
        bare: list[Node] = []
        others: list[Node] = []
        for child in _sorted(one for one in base.folders.values() if not one.is_empty):
            split = _split_of(child.name)
            node, place = self._unwrapped(child, f"{path}{child.name}/", in_split=True)
            if split and node.folders:
                if split in found:
                    self._refuse_both(names[split], child.name, split)
                found[split], names[split] = (node, place), child.name
            elif split or _words(child.name) & UNLABELLED:
                bare.append(child)
            else:
                others.append(child)
        if "train" not in found:
            if not others:
                self._refuse_without_train(base, list(names.values()), bare)
            return {}
        if others and self.label_from == "top":
            return {}
        if others:
            self._refuse_beside_train(names, others[0].name)
        for child in bare:
            self._leave_alone(child, path + child.name)
        self.empty += [path + one.name for one in _sorted(base.folders.values()) if one.is_empty]
        return {split: found[split] for split in SPLITS if split in found}

    def _refuse_without_train(self, base: Node, splits: list[str], bare: list[Node]) -> None:
        """Folders of splits and nothing else: without train, or all flat, with the classes in a table or in names."""
        if splits and not bare:
            self._refuse(f"has {', '.join(splits)} but no train folder")
        if not bare or self.label_from != "auto":
            return
        tables = sorted(name for name, _ in base.files if name.lower().endswith(TABLE_ENDINGS))
        names = [name for child in bare for name, _ in child.files if looks_like_picture(name)]
        cure = f"give {tables[0]}, if it names the classes" if tables else _pattern_hint(names)
        self._refuse(
            f"{_listed([child.name for child in bare])} hold pictures, but no class folders; "
            f"{cure or 'put the pictures of each class in one of its own'}"
        )

    def _refuse_both(self, one: str, other: str, split: Split) -> None:
        self._refuse(f"{one} and {other} are both {split}; rename or move one")

    def _refuse_beside_train(self, names: Mapping[Split, str], other: str) -> None:
        if all(name.lower() in SPLIT_NAMES for name in names.values()):
            self._refuse(
                f"{other} beside {names['train']} is neither val nor test; rename or move it"
            )
        self._refuse(
            f"{names['train']} beside {other} could be a split or a class; rename the folders that are splits to "
            f"train, val, test, or set data.label_from = top, if they are classes"
        )

    def _leave_alone(self, folder: Node, path: str) -> None:
        pictures = sum(looks_like_picture(name) for name, _ in folder.all_files())
        if pictures:
            self.ignored[f"pictures in {path}, which has no class folders"] += pictures

    def _refuse_views(self, base: Node) -> None:
        """Folders that all hold folders of the same names are splits or views of the pictures, and not classes."""
        if self.label_from != "auto":
            return
        children = [one for one in base.folders.values() if not one.is_empty]
        below = {frozenset(one.folders) for one in children}
        if len(children) < 2 or len(below) != 1 or len(next(iter(below))) < 2:
            return
        names = sorted(one.name for one in children)
        self._refuse(
            f"{_listed(names)} all hold the same folders ({_listed(sorted(below.pop()))}): splits or views, but not "
            f"classes; rename those that are splits to train, val, test, or set data.label_from = leaf (the inner "
            f"folders are classes) or top"
        )

    def _read_classes(self, node: Node, path: str, split: Split | None) -> None:
        names = {child.name.lower() for child in node.folders.values() if not child.is_empty}
        if (
            self.label_from == "auto"
            and "images" in names
            and len(names) > 1
            and names <= OF_DETECTION
        ):
            self._refuse(
                f"{_listed(sorted(names))} are folders of object detection or segmentation; imgrec tells what a whole "
                f"picture shows: put the pictures of each class in a folder of its own"
            )
        for child in _sorted(node.folders.values()):
            place = f"{path}{child.name}/"
            if child.is_empty:
                self.empty.append(place.rstrip("/"))
                continue
            try:
                child.name.encode()
            except UnicodeEncodeError:
                self._refuse(f"{place!a}: the name of a class must be text in UTF-8; rename it")
            if self.label_from in {"leaf", "path"}:
                self._read_deeply(child, place, split, child.name)
                continue
            files = child.files
            if child.folders:
                self.deeper.append(place.rstrip("/"))
                files = list(child.all_files())
            self.classes.append(ClassFolder(place, child.name, split, sorted(files)))

    def _read_deeply(self, node: Node, path: str, split: Split | None, label: str) -> None:
        """A class for every folder that files lie in."""
        if node.files:
            self.classes.append(ClassFolder(path, label, split, sorted(node.files)))
        for child in _sorted(node.folders.values()):
            own = child.name if self.label_from == "leaf" else f"{label}/{child.name}"
            self._read_deeply(child, f"{path}{child.name}/", split, own)

    def _keep_strays(self, node: Node, path: str) -> None:
        self.strays += [
            (path + name, kept) for name, kept in sorted(node.files) if looks_like_picture(name)
        ]

    def _note_what_is_odd(self) -> None:
        if self.empty:
            self.notes.append(f"no file in {_listed(self.empty)}: left alone")
        if self.deeper and self.label_from == "auto":
            self.notes.append(
                f"folders inside {_listed(self.deeper)} belong to its class; data.label_from = leaf or path makes "
                f"them classes"
            )

    def _refuse(self, problem: str) -> None:
        msg = f"{self.where}: {problem}"
        raise DataError(msg)


def _split_of(name: str) -> Split | None:
    """The split of a folder called `train`, `seg_train`, `Training Set` or `testImages`; None where two are named."""
    if name.lower() in SPLIT_NAMES:
        return SPLIT_NAMES[name.lower()]
    found = {SPLIT_NAMES[word] for word in _words(name) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _words(name: str) -> set[str]:
    return {word.lower().removesuffix("set") for word in WORD.findall(name)}


def _sorted(nodes: Iterable[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: node.name)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:LISTED])
    return f"{shown} and {len(names) - LISTED:,} more" if len(names) > LISTED else shown


PREFIX = re.compile(r"(?P<label>[^\W\d_]+(?:[ _-][^\W\d_]+)*)[ ._-]*\(?[0-9]+\)?\.")
"""`cat.12.jpg`, `great_pyrenees_7.jpg`, `dog (3).jpg`: a name, a number and an ending."""


def _pattern_hint(names: list[str]) -> str:
    """What to type where the names of files say the class; empty where they do not."""
    labels = Counter(found["label"] for name in names if (found := PREFIX.match(name)))
    often = [label for label, count in labels.items() if count > 1]
    if len(often) < 2 or sum(labels.values()) < 0.9 * len(names):
        return ""
    return f"set data.label_pattern = '{PREFIX.pattern}', which finds {_listed(sorted(often))} in their names"
