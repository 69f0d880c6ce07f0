"""One look at every sample before any is decoded: what it is, and whether it can be read at all."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from imgrec.config import DataConfig
from imgrec.data.decode import Header, ImageShape, read_header
from imgrec.data.parallel import map_in_chunks, read_content
from imgrec.data.sources import Sample
from imgrec.errors import DataError, DecodeError

LARGEST_DEFAULT_SIDE = 128
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
        samples: The readable ones, sorted by id.
        image_shape: Height, width and channels that the pictures will be brought to.
        fingerprint: SHA-256 (hex) over contents, classes and splits, independent of file names,
            their order and where the folder lies.
        rejected: The samples left out.
    """

    samples: tuple[Sample, ...]
    image_shape: ImageShape
    fingerprint: str
    rejected: tuple[Rejected, ...]


def scan(samples: Sequence[Sample], config: DataConfig, *, progress: Progress) -> Scan:
    """Read all headers in parallel, and settle the shape of the store.

    Raises:
        DataError: a class has no readable picture left.
    """
    looks: list[_Look] = []
    chunks = map_in_chunks(_look, samples, config.max_pixels, workers=config.decode_workers)
    for chunk in chunks:
        looks += chunk
        progress("reading", len(looks), len(samples))
    pairs = list(zip(samples, looks, strict=True))
    rejected = tuple(
        Rejected(sample.id, sample.label, look.header)
        for sample, look in pairs
        if isinstance(look.header, str)
    )
    refuse_lost_classes(samples, rejected)
    digest = hashlib.sha256()
    for sample, look in sorted(pairs, key=_content_order):
        digest.update(f"{sample.label}\0{sample.split}\0".encode("utf-8", "surrogateescape"))
        digest.update(look.digest)
    headers = [look.header for look in looks if isinstance(look.header, Header)]
    return Scan(
        samples=tuple(sample for sample, look in pairs if isinstance(look.header, Header)),
        image_shape=_choose_shape(headers, config),
        fingerprint=digest.hexdigest(),
        rejected=rejected,
    )


def _content_order(pair: "tuple[Sample, _Look]") -> tuple[str, str, bytes]:
    sample, look = pair
    return sample.label, sample.split or "", look.digest


@dataclass(frozen=True, slots=True)
class _Look:
    digest: bytes
    header: Header | str  # or the reason why there is none


def _look(sample: Sample, max_pixels: int) -> _Look:
    try:
        content = read_content(sample)
    except DecodeError as error:
        return _Look(b"", str(error))
    raw = content if isinstance(content, bytes) else content.tobytes()
    digest = hashlib.sha256(raw).digest()
    try:
        return _Look(digest, read_header(content, max_pixels=max_pixels))
    except DecodeError as error:
        return _Look(digest, str(error))


def refuse_lost_classes(samples: Sequence[Sample], rejected: Sequence[Rejected]) -> None:
    """Stop where a class has pictures to train on, but none of them can be read."""
    trained = [sample for sample in samples if sample.split in {None, "train"}]
    ids = {sample.id for sample in trained}
    all_of = Counter(sample.label for sample in trained)
    lost_of = Counter(reject.label for reject in rejected if reject.id in ids)
    for label, lost in lost_of.items():
        if lost == all_of[label]:
            reason = next(reject.reason for reject in rejected if reject.label == label)
            count = "its one file" if lost == 1 else f"every one of its {lost} files"
            msg = f"class {label}: {count} is unreadable (such as: {reason}); replace or remove it"
            raise DataError(msg)


def _choose_shape(headers: Sequence[Header], config: DataConfig) -> ImageShape:
    channels = config.channels or (1 if all(header.grey for header in headers) else 3)
    if config.image_size:
        return (*config.image_size, channels)
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) == 1 and max(size := next(iter(sizes))) <= LARGEST_DEFAULT_SIDE:
        return (*size, channels)
    median = int(np.median([min(header.height, header.width) for header in headers]))
    side = max(1, min(median, LARGEST_DEFAULT_SIDE))
    return (side, side, channels)
