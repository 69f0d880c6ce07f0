"""All samples of a source, each with a class and a group, and what is refused before anything is read."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from imgrec.config import DataConfig
from imgrec.data.content import Missing
from imgrec.data.sources.manifest import FOLDER, Manifest
from imgrec.data.sources.sample import Sample, Source, Split
from imgrec.errors import DataError

# Control characters, and halves of characters.
NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def list_samples(source: Source, config: DataConfig) -> list[Sample]:
    """All samples of a source; those of other classes than data.classes are named as unusable.

    Raises:
        DataError: it has fewer than two classes, or its splits have other classes than train.
    """
    group_of = _grouping(config, source)
    samples = [_in_class_map(_named_once(group_of(sample)), config.classes) for sample in source]
    usable = [sample for sample in samples if not isinstance(sample.content, Missing)]
    if lost := sorted(set(config.classes) - {sample.label for sample in usable}):
        msg = f"{config.source}: no picture of {', '.join(lost)}, which data.classes names"
        raise DataError(msg)
    _refuse_useless_groups(config, usable)
    _refuse_misspelt(config, {sample.label for sample in usable})
    _refuse_useless(config.source, usable)
    return samples


def _refuse_useless_groups(config: DataConfig, samples: Sequence[Sample]) -> None:
    groups = {sample.group for sample in samples}
    if not config.group or not samples or len(groups - {""}) > 1:
        return
    found = "no picture has one" if groups == {""} else "all pictures have the same"
    msg = f"data.group = {config.group!r}: {found} (such as {samples[0].id}); correct it, or leave it out"
    raise DataError(msg)


def _grouping(config: DataConfig, source: Source) -> Callable[[Sample], Sample]:
    """What gives a sample its group, as data.group says.

    Raises:
        DataError: a column is meant, and the source has none.
    """
    if not config.group or isinstance(source, Manifest):
        return lambda sample: sample  # a table says it itself
    if config.group == FOLDER:
        return lambda sample: replace(sample, group=str(PurePosixPath(sample.id).parent))
    if "(?P" not in config.group:
        msg = (
            f"data.group = {config.group!r}: the source has no columns; write folder, or a regular expression with "
            f"(?P<group>...)"
        )
        raise DataError(msg)
    pattern = re.compile(config.group)

    def of_pattern(sample: Sample) -> Sample:
        found = pattern.search(sample.id)
        return replace(sample, group=(found["group"] or "") if found else "")

    return of_pattern


def _named_once(sample: Sample) -> Sample:
    """With its class in one form of Unicode: macOS writes another than other systems."""
    if sample.label.isascii() or unicodedata.is_normalized("NFC", sample.label):
        return sample
    return replace(sample, label=unicodedata.normalize("NFC", sample.label))


def _refuse_misspelt(config: DataConfig, labels: set[str]) -> None:
    """Two classes whose names differ in capitals only are one, misspelt, unless the settings name both."""
    of_folded: dict[str, str] = {}
    for label in sorted(labels):
        other = of_folded.setdefault(label.casefold(), label)
        if other != label and not {other, label} <= set(config.classes):
            msg = (
                f"{config.source}: the classes {other} and {label} differ in capitals only; rename one, or name "
                f"all classes in data.classes, if they are two"
            )
            raise DataError(msg)


def _in_class_map(sample: Sample, classes: Sequence[str]) -> Sample:
    if isinstance(sample.content, Missing):
        return sample
    if not sample.label:
        problem = "it has no label"
    elif NO_TEXT.search(sample.label):
        problem = f"its label {sample.label[:50]!a} is not text in one line"
    elif classes and sample.label not in classes:
        problem = f"class {sample.label} is not in data.classes"
    else:
        return sample
    return replace(sample, content=Missing(problem))


def _refuse_useless(source: str, samples: Sequence[Sample]) -> None:
    counts = Counter((sample.split, sample.label) for sample in samples)
    classes = {label for _, label in counts}
    if len(classes) < 2:
        held = f"only one class ({classes.pop()})" if classes else "no picture with a label"
        msg = f"{source}: {held}; classification needs at least two classes"
        raise DataError(msg)
    trained = {label for split, label in counts if split in {None, "train"}}
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        brought = {label for other, label in counts if other == split}
        if strangers := sorted(brought - trained):
            msg = f"{source}: {split} has classes that train has not: {', '.join(strangers[:5])}; rename or remove them"
            raise DataError(msg)
