"""One pass over a source: what can be read, what it is, and its pixels in the shape of a store."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from imgrec.config import DataConfig
from imgrec.data.decode import Header, ImageShape, read_header
from imgrec.data.look import LOOK, Looks, look_at, only_write
from imgrec.data.parallel import CHUNK, map_in_chunks
from imgrec.data.sources.sample import Missing, Sample, read_all
from imgrec.errors import DataError, DecodeError

LARGEST_DEFAULT_SIDE = 128
PEEKED = 64
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A sample that is left out, and why."""

    id: str
    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What a source holds.

    Attributes:
        samples: The readable ones, in the source's order.
        looks: What is known of each, (N,) of LOOK.
        image_shape: Height, width and channels of the images that were written.
        fingerprint: SHA-256 (hex) over decoded contents, classes and splits, independent of file
            names, formats, their order and where the source lies.
        rejected: The samples left out, sorted by id.
    """

    samples: tuple[Sample, ...]
    looks: Looks
    image_shape: ImageShape
    fingerprint: str
    rejected: tuple[Rejected, ...]


def scan(
    samples: Sequence[Sample], config: DataConfig, images_file: Path, *, progress: Progress
) -> Scan:
    """Decode everything once, in parallel, and write the images (N, H, W, C) to a .npy file.

    Which shape they are to have is known only when all have been seen. It is guessed from a few
    first; where the guess was wrong, they are decoded again.

    Raises:
        DataError: a class has no readable picture left, or pictures vanish while they are read.
    """
    shape = guess_shape(samples, config)
    _make_images(images_file, len(samples), shape)
    kept = np.zeros(len(samples), dtype=bool)
    looks = np.empty(len(samples), dtype=LOOK)
    reasons: list[str] = []
    done = count = 0
    contents = [sample.content for sample in samples]
    found = map_in_chunks(look_at, contents, images_file, config, workers=config.decode_workers)
    for looked in found:
        kept[done : done + len(looked.kept)] = looked.kept
        done += len(looked.kept)
        looks[count : count + len(looked.looks)] = looked.looks
        count += len(looked.looks)
        reasons += looked.reasons
        progress("decoding", done, len(samples))
    readable = tuple(sample for sample, good in zip(samples, kept, strict=True) if good)
    left_out = [sample for sample, good in zip(samples, kept, strict=True) if not good]
    rejected = [
        Rejected(sample.id, sample.label, reason)
        for sample, reason in zip(left_out, reasons, strict=True)
    ]
    _refuse_lost_classes(samples, left_out, rejected)
    looks = looks[:count]
    true_shape = _shape_of(looks, config)
    if true_shape != shape:
        _write_again(readable, true_shape, config, images_file, progress)
    elif count < len(samples):
        _keep_rows(images_file, np.flatnonzero(kept))
    return Scan(
        samples=readable,
        looks=looks,
        image_shape=true_shape,
        fingerprint=_fingerprint(readable, looks),
        rejected=tuple(sorted(rejected, key=lambda reject: reject.id)),
    )


def guess_shape(samples: Sequence[Sample], config: DataConfig) -> ImageShape:
    """The shape of the store, from the headers of a few samples."""
    chosen = samples[:: max(1, len(samples) // PEEKED)]
    headers: list[Header] = []
    for content in read_all([sample.content for sample in chosen]):
        try:
            if not isinstance(content, DecodeError):
                headers.append(read_header(content, max_pixels=config.max_pixels))
        except DecodeError:
            continue  # the pass over all will say so
    sides = np.array([(header.height, header.width) for header in headers]).reshape(-1, 2)
    return _choose_shape(sides, all(header.grey for header in headers), config)


def _shape_of(looks: Looks, config: DataConfig) -> ImageShape:
    sides = np.stack([looks["height"], looks["width"]], axis=1)
    return _choose_shape(sides, bool(looks["grey"].all()), config)


def _choose_shape(
    sides: npt.NDArray[np.int64], every_one_grey: bool, config: DataConfig
) -> ImageShape:
    """From heights and widths (N, 2)."""
    channels = config.channels or (1 if every_one_grey else 3)
    if config.image_size:
        return (*config.image_size, channels)
    if not len(sides):
        return (1, 1, channels)
    height, width = sides[0].tolist()
    if (sides == sides[0]).all() and max(height, width) <= LARGEST_DEFAULT_SIDE:
        return (height, width, channels)
    side = max(1, min(int(np.median(sides.min(axis=1))), LARGEST_DEFAULT_SIDE))
    return (side, side, channels)


def _fingerprint(samples: Sequence[Sample], looks: Looks) -> str:
    lines = [
        f"{sample.label}\0{sample.split}\0".encode() + bytes(digest)
        for sample, digest in zip(samples, looks["digest"], strict=True)
    ]
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line)
    return digest.hexdigest()


def _refuse_lost_classes(
    samples: Sequence[Sample], left_out: Sequence[Sample], rejected: Sequence[Rejected]
) -> None:
    """Stop where a class had pictures to train on, or to score with, and none can be read."""
    # What the source itself calls unusable is not of a class.
    usable, lost = (
        [sample for sample in some if not isinstance(sample.content, Missing)]
        for some in (samples, left_out)
    )
    all_of = Counter((sample.label, sample.split or "train") for sample in usable)
    lost_of = Counter((sample.label, sample.split or "train") for sample in lost)
    reason_of = {reject.label: reject.reason for reject in reversed(rejected)}
    if usable and len(lost) == len(usable):
        first = next(
            reject
            for sample, reject in zip(left_out, rejected, strict=True)
            if not isinstance(sample.content, Missing)
        )
        msg = f"none of {len(usable):,} files can be read (such as {first.id}: {first.reason})"
        raise DataError(msg)
    for (label, split), count in lost_of.items():
        if count == all_of[label, split]:
            which = "its one file" if count == 1 else f"every one of its {count} files"
            where = "" if split == "train" else f" in {split}"
            msg = (
                f"class {label}: {which}{where} is unreadable (such as: {reason_of[label]}); "
                f"replace or remove it"
            )
            raise DataError(msg)


def _write_again(
    samples: Sequence[Sample],
    shape: ImageShape,
    config: DataConfig,
    images_file: Path,
    progress: Progress,
) -> None:
    _make_images(images_file, len(samples), shape)
    contents = [sample.content for sample in samples]
    done = 0
    for count in map_in_chunks(
        only_write, contents, images_file, config, workers=config.decode_workers
    ):
        done += count
        progress("decoding again", done, len(samples))


def _make_images(path: Path, count: int, shape: ImageShape) -> None:
    open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *shape)).flush()


def _keep_rows(path: Path, rows: npt.NDArray[np.int64]) -> None:
    """Leave out the other rows, without a second copy of all in memory."""
    images = np.load(path, mmap_mode="r")
    shorter = path.with_suffix(".part")
    copy = open_memmap(shorter, mode="w+", dtype=np.uint8, shape=(len(rows), *images.shape[1:]))
    for start in range(0, len(rows), CHUNK):
        copy[start : start + CHUNK] = images[rows[start : start + CHUNK]]
    copy.flush()
    shorter.replace(path)
