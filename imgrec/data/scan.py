"""One pass over a source: what can be read, what it is, and its pixels in the shape of a store.

A source is cut into parts, whose images become a file each. One machine works on one part with
all its cores; a cluster on many side by side.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from imgrec.config import DataConfig, ImageShape
from imgrec.data.content import Content, Missing
from imgrec.data.decode import Decoding
from imgrec.data.depth import Depth
from imgrec.data.encoded import encoded_file
from imgrec.data.images import keep_rows, new_images
from imgrec.data.look import Looks, PartScan, look_at, only_write
from imgrec.data.parallel import map_in_chunks, start_decoders
from imgrec.data.shape import depth_of, guess, shape_of
from imgrec.data.sources.sample import Progress, Sample
from imgrec.errors import DataError

Advance = Callable[[int], None]
"""Called with how many more are done."""
Result = TypeVar("Result")
MOST_PIXEL_BYTES = 64 << 30


@dataclass(frozen=True, slots=True)
class ScanPart:
    """A stretch of a source, and the file that its images (n, H, W, C) are written to.

    A .npy file of pixels, or an .arrow file of encoded pictures.
    """

    contents: Sequence[Content]
    images_file: Path


Work = Callable[[ScanPart, int, Advance], Result]
"""What is done with a part, in so many processes."""


class DecodeBackend(Protocol):
    """Where the parts of a source are worked on."""

    def expect(self) -> None:
        """Let what decodes come up, while the samples are listed."""

    def label(self) -> str:
        """What is being done, for people; known once `cut` was called."""

    def cut(self, contents: Sequence[Content], row_bytes: int, *, encoded: bool) -> list[slice]:
        """Into which parts, when the pixels of an image take so many bytes."""

    def work(
        self,
        function: Work[Result],
        parts: Sequence[ScanPart],
        advance: Advance,
    ) -> Iterator[Result]:
        """The function's results, in the order of the parts."""

    def bring(self, folder: Path, progress: Progress) -> None:
        """Let every machine have what it needs of a finished store."""


@dataclass(frozen=True, slots=True)
class LocalDecoding:
    """This one: everything is one part, for all cores."""

    processes: int = 0

    def expect(self) -> None:
        """Start the processes."""
        start_decoders(self.processes)

    def label(self) -> str:
        """What is being done."""
        return "decoding pictures"

    def cut(self, contents: Sequence[Content], row_bytes: int, *, encoded: bool) -> list[slice]:  # noqa: ARG002
        """One part."""
        return [slice(0, len(contents))]

    def work(
        self,
        function: Work[Result],
        parts: Sequence[ScanPart],
        advance: Advance,
    ) -> Iterator[Result]:
        """One after the other, in this process and in those that it starts."""
        for part in parts:
            yield function(part, self.processes, advance)

    def bring(self, folder: Path, progress: Progress) -> None:
        """Nothing: it lies here."""


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
        depth: Of greys with more than 8 bits.
        encoded: Whether they were written as JPEG and not as pixels.
        fingerprint: SHA-256 (hex) over decoded contents, classes and splits, independent of file
            names, formats, their order and where the source lies.
        rejected: The samples left out, sorted by id.
    """

    samples: tuple[Sample, ...]
    looks: Looks
    image_shape: ImageShape
    depth: Depth
    encoded: bool
    fingerprint: str
    rejected: tuple[Rejected, ...]


def scan(
    samples: Sequence[Sample],
    config: DataConfig,
    folder: Path,
    *,
    photo_side: int,
    backend: DecodeBackend,
    progress: Progress,
) -> Scan:
    """Decode everything once, in parallel, and write the images to files `images-00000` and on.

    Which shape they are to have, and which depth greys of more than 8 bits have, is known only when all
    have been seen. Both are guessed from a few first; where the guess was wrong, they are decoded again.

    Raises:
        DataError: a class has no readable picture left, or pictures vanish while they are read.
    """
    how = guess(samples, config, photo_side)
    row = math.prod(how.image_shape)
    contents = [sample.content for sample in samples]
    encoded = is_to_be_encoded(config, len(samples) * row)
    name = "images-{:05}.arrow" if encoded else "images-{:05}.npy"
    parts = [
        ScanPart(contents[cut], folder / name.format(number))
        for number, cut in enumerate(backend.cut(contents, row, encoded=encoded))
    ]

    def look(how: Decoding, again: str = "") -> list[PartScan]:
        advance = _Count(progress, backend.label() + again, len(samples))
        return list(backend.work(partial(scan_part, how=how), parts, advance))

    scanned = look(how)
    true_depth = depth_of(np.concatenate([one.looks for one in scanned]), config)
    if true_depth != how.depth:
        # The digests and hashes are of decoded greys too, so all is looked at again.
        how = how._replace(depth=true_depth)
        scanned = look(how, " again")
    kept = np.concatenate([one.kept for one in scanned])
    looks = np.concatenate([one.looks for one in scanned])
    reasons = [reason for one in scanned for reason in one.reasons]
    readable = tuple(sample for sample, good in zip(samples, kept, strict=True) if good)
    left_out = [sample for sample, good in zip(samples, kept, strict=True) if not good]
    rejected = [
        Rejected(sample.id, sample.label, reason)
        for sample, reason in zip(left_out, reasons, strict=True)
    ]
    _refuse_lost_classes(samples, left_out, rejected)
    true_shape = shape_of(looks, config, photo_side)
    if true_shape != how.image_shape:
        smaller = [
            ScanPart(list(compress(part.contents, one.kept)), part.images_file)
            for part, one in zip(parts, scanned, strict=True)
        ]
        advance = _Count(progress, f"{backend.label()} again", len(readable))
        writing = partial(write_part, how=how._replace(image_shape=true_shape))
        for _ in backend.work(writing, smaller, advance):
            pass
    return Scan(
        samples=readable,
        looks=looks,
        image_shape=true_shape,
        depth=true_depth,
        encoded=encoded,
        fingerprint=_fingerprint(readable, looks),
        rejected=tuple(sorted(rejected, key=lambda reject: reject.id)),
    )


class _Count:
    """Adds up what is done, for a progress that wants to know the sum."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done = 0

    def __call__(self, more: int) -> None:
        self._done += more
        self._progress(self._what, self._done, self._total)


def is_to_be_encoded(config: DataConfig, pixel_bytes: int) -> bool:
    """Whether pictures are kept as JPEG: asked for, or because all their pixels take too much room.

    Never by what a disk has free: the same pictures would be other pixels on another day.
    """
    return config.keep == "jpeg" or (config.keep == "auto" and pixel_bytes > MOST_PIXEL_BYTES)


def scan_part(part: ScanPart, processes: int, advance: Advance, *, how: Decoding) -> PartScan:
    """Decode a part, write the images of what can be read, and describe them."""
    chunks = []
    with _new_file(part, how.image_shape) as add:
        for looked in map_in_chunks(
            look_at, part.contents, part.images_file, how, workers=processes
        ):
            add(looked.encoded)
            chunks.append(replace(looked, encoded=[]))
            advance(len(looked.kept))
    kept = np.concatenate([one.kept for one in chunks])
    if part.images_file.suffix == ".npy" and not kept.all():
        keep_rows(part.images_file, np.flatnonzero(kept))
    return PartScan(
        kept=kept,
        looks=np.concatenate([one.looks for one in chunks]),
        reasons=[reason for one in chunks for reason in one.reasons],
        unread=sum(one.unread for one in chunks),
        encoded=[],
    )


def write_part(part: ScanPart, processes: int, advance: Advance, *, how: Decoding) -> None:
    """Write the images of contents that could be read before."""
    with _new_file(part, how.image_shape) as add:
        for count, encoded in map_in_chunks(
            only_write, part.contents, part.images_file, how, workers=processes
        ):
            add(encoded)
            advance(count)


@contextmanager
def _new_file(part: ScanPart, shape: ImageShape) -> Iterator[Callable[[Sequence[bytes]], None]]:
    """The file of a part, and how encoded pictures get into it; pixels are written where they are made."""
    if part.images_file.suffix == ".npy":
        new_images(part.images_file, (len(part.contents), *shape))
        yield lambda _: None
        return
    with encoded_file(part.images_file) as add:
        yield add


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
