"""Pictures decoded once into memory-mapped arrays, shared by every worker and every later run.

A store is a folder named by its key: `images.npy` (N, H, W, C) uint8, `labels.npy` (N,) int64,
`splits.npy` (N,) int8, `samples.csv`, `quarantine.csv` and `store.json`. It is written under
another name and renamed when complete, so a store that exists is whole.
"""

import csv
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from imgrec.config import DataConfig
from imgrec.data.decode import DECODER_VERSION, ImageShape, decode
from imgrec.data.parallel import map_in_chunks, read_content
from imgrec.data.scan import Progress, Rejected, Scan, refuse_lost_classes, scan
from imgrec.data.sources import Sample, Split, list_samples
from imgrec.errors import DecodeError

SPLITS: tuple[Split, ...] = ("train", "val", "test")
NO_SPLIT = -1


@dataclass(frozen=True)
class Store:
    """A decoded data set.

    Attributes:
        folder: Where it lies.
        images: (N, H, W, C) uint8, memory-mapped, read-only.
        labels: (N,) int64 in [0, K).
        given_splits: (N,) int8: index into SPLITS where the source says, else NO_SPLIT.
        class_names: K names, sorted.
        fingerprint: See `Scan`.
        quarantined: How many samples were left out; `quarantine.csv` lists them.
    """

    folder: Path
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    given_splits: npt.NDArray[np.int8]
    class_names: tuple[str, ...]
    fingerprint: str
    quarantined: int

    @property
    def image_shape(self) -> ImageShape:
        """Height, width and channels."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def quarantine_file(self) -> Path:
        """The samples left out, each with its class and the reason."""
        return self.folder / "quarantine.csv"


def prepare_store(config: DataConfig, storage: Path, *, progress: Progress) -> Store:
    """The store of a source: the one that is there already, or a new one.

    Args:
        config: Names the source and how its pictures are brought to one shape.
        storage: Stores lie in its subfolder `store`.
        progress: Told how far reading and decoding are.

    Raises:
        DataError: the source has no folder, no classes, or a class without a readable picture.
    """
    found, folder = locate_store(config, storage, progress=progress)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        try:
            _build(building, found, config, progress)
            building.rename(folder)
        except OSError:
            # Another run may have finished the same store first, and then it is ours too.
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return open_store(folder)


def locate_store(config: DataConfig, storage: Path, *, progress: Progress) -> tuple[Scan, Path]:
    """What a source holds, and the folder of its store, which need not exist yet.

    Raises:
        DataError: the source has no folder, no classes, or a class without a readable picture.
    """
    found = scan(list_samples(config.source), config, progress=progress)
    return found, storage / "store" / _key(found, config)


def open_store(folder: Path) -> Store:
    """Map a store that `prepare_store` made; costs milliseconds and no memory."""
    meta = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    return Store(
        folder=folder,
        images=np.load(folder / "images.npy", mmap_mode="r"),
        labels=np.load(folder / "labels.npy"),
        given_splits=np.load(folder / "splits.npy"),
        class_names=tuple(meta["class_names"]),
        fingerprint=meta["fingerprint"],
        quarantined=meta["quarantined"],
    )


def _key(found: Scan, config: DataConfig) -> str:
    # The ids are in it, because they give the order of the store and so the splits.
    ids = hashlib.sha256("\0".join(s.id for s in found.samples).encode("utf-8", "surrogateescape"))
    parts: list[Any] = [
        found.fingerprint,
        ids.hexdigest(),
        found.image_shape,
        config.resize,
        config.max_pixels,
        DECODER_VERSION,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _build(folder: Path, found: Scan, config: DataConfig, progress: Progress) -> None:
    samples = found.samples
    images = open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(len(samples), *found.image_shape)
    )
    kept: list[Sample] = []
    rejected = list(found.rejected)
    decoded = map_in_chunks(
        _decode, samples, found.image_shape, config, workers=config.decode_workers
    )
    done = 0
    for chunk in decoded:
        for pixels in chunk:
            sample = samples[done]
            done += 1
            if isinstance(pixels, str):
                rejected.append(Rejected(sample.id, sample.label, pixels))
            else:
                images[len(kept)] = pixels
                kept.append(sample)
        progress("decoding", done, len(samples))
    refuse_lost_classes(samples, rejected[len(found.rejected) :])
    images.flush()
    if len(kept) < len(samples):
        _truncate(folder / "images.npy", images, len(kept))
    class_names = sorted({sample.label for sample in kept})
    index = {name: label for label, name in enumerate(class_names)}
    labels = np.array([index[sample.label] for sample in kept], dtype=np.int64)
    splits = [NO_SPLIT if s.split is None else SPLITS.index(s.split) for s in kept]
    np.save(folder / "labels.npy", labels)
    np.save(folder / "splits.npy", np.array(splits, dtype=np.int8))
    _write_csv(folder / "samples.csv", ("id", "label"), [(s.id, s.label) for s in kept])
    rejected.sort(key=lambda reject: reject.id)
    rows = [(reject.id, reject.label, reject.reason) for reject in rejected]
    _write_csv(folder / "quarantine.csv", ("id", "label", "reason"), rows)
    meta = {
        "class_names": class_names,
        "fingerprint": found.fingerprint,
        "quarantined": len(rejected),
    }
    (folder / "store.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")


def _decode(
    sample: Sample, image_shape: ImageShape, config: DataConfig
) -> npt.NDArray[np.uint8] | str:
    try:
        content = read_content(sample)
        return decode(content, image_shape, resize=config.resize, max_pixels=config.max_pixels)
    except DecodeError as error:
        return str(error)


def _truncate(path: Path, images: npt.NDArray[np.uint8], count: int) -> None:
    """Keep the first count images, without a second copy of the rest."""
    shorter = path.with_suffix(".part")
    copy = open_memmap(shorter, mode="w+", dtype=np.uint8, shape=(count, *images.shape[1:]))
    for start in range(0, count, 4096):
        copy[start : start + 4096] = images[start : min(start + 4096, count)]
    copy.flush()
    shorter.replace(path)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # File names are bytes on Linux: one that is no text must not stop the run.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
