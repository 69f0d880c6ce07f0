"""Pictures decoded once into memory-mapped arrays, shared by every worker and every later run.

A store is a folder named by its key: `images-00000.npy` (N, H, W, C) uint8 (or `images-00000.arrow`, of
pictures that are encoded because they are too many: `data/encoded.py`), `labels.npy` (N,) int64,
`splits.npy` (N,) int8, `groups.npy` (N,) int64, `looks.npy` (N,) of LOOK, `near.npy` (P, 2),
`samples.csv`, `quarantine.csv` and `store.json`. It is written under another name and renamed when
complete, so a store that exists is whole.

What a cluster prepares has its images in several files, one a task. Each machine puts them together
on its own disk (`data/images.py`); what is one file is mapped where it lies.

Beside the stores, `seen/` notes for each state of a source which store was made of it. So a source
that has not changed is not read again: its files' names, sizes and times tell.
"""

import csv
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from imgrec.config import DataConfig, ImageShape
from imgrec.data.decode import DECODER_VERSION
from imgrec.data.depth import DEEP_MODES, Depth
from imgrec.data.duplicates import Numbers, groups_of, near_pairs
from imgrec.data.images import AnyImages, all_images
from imgrec.data.look import Looks
from imgrec.data.scan import DecodeBackend, LocalDecoding, Rejected, Scan, scan
from imgrec.data.sources import open_source
from imgrec.data.sources.digits import Digits
from imgrec.data.sources.listing import list_samples
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.sample import SPLITS, Progress, Source
from imgrec.machine import locked, sync, write_durably

NO_SPLIT = -1
# Settings that decide what is done with a store, and not what it holds.
NOT_OF_THE_STORE = (
    "val_fraction",
    "test_fraction",
    "test_from",
    "split_seed",
    "allow_leakage",
    "decode_workers",
)
STORE_VERSION = 6


@dataclass(frozen=True)
class Store:
    """A decoded data set.

    Attributes:
        folder: Where it lies.
        image_shape: Height, width and channels.
        depth: Of greys with more than 8 bits.
        labels: (N,) int64 in [0, K).
        given_splits: (N,) int8: index into SPLITS where the source says, else NO_SPLIT.
        groups: (N,) int64: the first picture of those that must be in one split: exact and near duplicates, and
            what data.group says.
        class_names: K names, as people sort them: 2 before 10.
        fingerprint: See `Scan`.
        quarantined: How many samples were left out; `quarantine.csv` lists them.
        near_cut_off: Whether the search for near duplicates was given up, because too many are.
        reading: How the source was understood; None where the store alone was opened.
    """

    folder: Path
    image_shape: ImageShape
    depth: Depth
    labels: npt.NDArray[np.int64]
    given_splits: npt.NDArray[np.int8]
    groups: Numbers
    class_names: tuple[str, ...]
    fingerprint: str
    quarantined: int
    near_cut_off: bool
    reading: Reading | None = None

    @cached_property
    def images(self) -> AnyImages:
        """(N, H, W, C) uint8, memory-mapped, read-only; encoded ones are decoded as they are read.

        Raises:
            StorageError: they are to be put together on this machine's disk, and do not fit.
        """
        return all_images(self.folder, self.folder.name, len(self.labels), self.image_shape)

    @property
    def quarantine_file(self) -> Path:
        """The samples left out, each with its class and the reason."""
        return self.folder / "quarantine.csv"

    def rejected(self) -> list[Rejected]:
        """The samples left out."""
        return [Rejected(**row) for row in _read_csv(self.quarantine_file)]

    def ids(self) -> list[str]:
        """What the source calls each picture, N names."""
        return [row["id"] for row in _read_csv(self.folder / "samples.csv")]

    @property
    def has_deep_greys(self) -> bool:
        """Whether the depth had a part in it."""
        return bool(np.isin(self.looks()["mode"], sorted(DEEP_MODES)).any())

    def about_depth(self, setting: Depth | Literal["auto"]) -> str:
        """For people, how greys of more than 8 bits were taken; empty where there is nothing to say.

        Args:
            setting: `data.depth`.
        """
        if self.has_deep_greys:
            bits = "floats from 0 to 1" if self.depth == "unit" else f"{self.depth} bits"
            return f"greys of more than 8 bits are taken as {bits} (data.depth)"
        if setting != "auto":
            return "data.depth has no effect: no picture is a grey of more than 8 bits"
        return ""

    def looks(self) -> Looks:
        """What is known of each picture beside its pixels, (N,) of LOOK."""
        return np.load(self.folder / "looks.npy")

    def named_groups(self) -> Numbers:
        """The number of the group that the source or data.group gives each picture, (N,); -1 for none."""
        return np.load(self.folder / "named.npy")

    def near(self) -> Numbers:
        """Pairs of near duplicates, (P, 2)."""
        return np.load(self.folder / "near.npy")


def prepare_store(
    config: DataConfig,
    storage: Path,
    *,
    progress: Progress,
    photo_side: int = 0,
    backend: DecodeBackend | None = None,
) -> Store:
    """The store of a source: the one that is there already, or a new one.

    Args:
        config: Names the source and how its pictures are brought to one shape.
        storage: Stores lie in its subfolder `store`.
        progress: Told how far decoding is.
        photo_side: Side in pixels that photos are kept at, where networks will see more of them than compact ones
            do; 0 where none will.
        backend: Where it is done; this machine, if nothing is said.

    Raises:
        DataError: the source is not there, has no classes, or a class without a readable picture.
        StorageError: there is no room for what is decoded.
    """
    source = open_source(config, storage / "downloads", progress)
    backend = backend or LocalDecoding(config.decode_workers)
    if not (storage / "store").exists():  # else these pictures may be there already
        _expect(backend, source)
    note = _note(source, config, photo_side, storage)
    if known := _noted(note):
        backend.bring(known.folder, progress)
        return known
    _expect(backend, source)
    samples = list_samples(source, config)
    home = storage / "store"
    home.mkdir(parents=True, exist_ok=True)
    with _building_site(home) as building:
        scanned = scan(
            samples, config, building, photo_side=photo_side, backend=backend, progress=progress
        )
        folder = home / _key(scanned, config)
        if folder.exists() and _opened(folder) is None:
            shutil.rmtree(folder)  # the power failed while an earlier version wrote it
        if not folder.exists():
            _write(building, folder.name, scanned, config)
            _rename(building, folder)
    reading = source.reading()
    note.parent.mkdir(exist_ok=True)
    write_durably(note, json.dumps({"store": folder.name, "reading": reading.as_json()}))
    backend.bring(folder, progress)
    return replace(open_store(folder), reading=reading)


def _expect(backend: DecodeBackend, source: Source) -> None:
    if not isinstance(source, Digits):  # which are pixels already
        backend.expect()


def find_store(config: DataConfig, storage: Path, *, photo_side: int = 0) -> Store | None:
    """The store that `prepare_store` would only have to open, if there is one.

    Raises:
        DataError: the source is not there.
    """
    source = open_source(config, storage / "downloads")
    return _noted(_note(source, config, photo_side, storage))


def open_store(folder: Path) -> Store:
    """A store that `prepare_store` made; costs milliseconds and no memory."""
    meta = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    return Store(
        folder=folder,
        image_shape=tuple(meta["image_shape"]),
        depth=meta["depth"],
        labels=np.load(folder / "labels.npy"),
        given_splits=np.load(folder / "splits.npy"),
        groups=np.load(folder / "groups.npy"),
        class_names=tuple(meta["class_names"]),
        fingerprint=meta["fingerprint"],
        quarantined=meta["quarantined"],
        near_cut_off=meta["near_cut_off"],
    )


def _note(source: Source, config: DataConfig, photo_side: int, storage: Path) -> Path:
    how = config.model_dump(mode="json", exclude=set(NOT_OF_THE_STORE))
    parts = [source.state(), how, photo_side, DECODER_VERSION, STORE_VERSION]
    return storage / "store" / "seen" / _hash(parts)


def _noted(note: Path) -> Store | None:
    if not note.exists():
        return None
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        store = _opened(note.parent.parent / noted["store"])
        return store and replace(store, reading=Reading.of(noted["reading"]))
    except (ValueError, KeyError, TypeError):  # half written, as the power failed
        return None


def _opened(folder: Path) -> Store | None:
    """The store in a folder; None where there is none, or a part of one."""
    try:
        return open_store(folder)
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _key(scanned: Scan, config: DataConfig) -> str:
    # The ids and their order are in it, because the splits and the findings depend on them.
    return _hash(
        [
            hashlib.sha256(scanned.looks.tobytes()).hexdigest(),
            [[sample.id, sample.label, sample.split, sample.group] for sample in scanned.samples],
            [[reject.id, reject.label, reject.reason] for reject in scanned.rejected],
            scanned.image_shape,
            scanned.depth,
            scanned.encoded,
            config.resize,
            config.near_duplicates,
            DECODER_VERSION,
            STORE_VERSION,
        ]
    )


def _named_groups(names: Sequence[str]) -> tuple[Numbers, Numbers]:
    """Numbers of groups, (N,), -1 for none; and pairs that tie each picture to the first of its group, (P, 2)."""
    numbers: dict[str, int] = {}
    first: list[int] = []
    named = np.full(len(names), -1, dtype=np.int64)
    pairs: list[tuple[int, int]] = []
    for row, name in enumerate(names):
        if not name:
            continue
        number = named[row] = numbers.setdefault(name, len(numbers))
        if number == len(first):
            first.append(row)
        else:
            pairs.append((first[number], row))
    return named, np.array(pairs, dtype=np.int64).reshape(-1, 2)


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """What to sort names by so that 2 comes before 10, and 1 and 01 in one order."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if number % 2 else (0, part) for number, part in enumerate(parts)], name


def _hash(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _write(folder: Path, key: str, scanned: Scan, config: DataConfig) -> None:
    """Everything but the images, which the scan wrote."""
    samples, looks = scanned.samples, scanned.looks
    class_names = sorted({sample.label for sample in samples}, key=natural)
    index = {name: label for label, name in enumerate(class_names)}
    labels = np.array([index[sample.label] for sample in samples], dtype=np.int64)
    splits = [NO_SPLIT if s.split is None else SPLITS.index(s.split) for s in samples]
    images = all_images(folder, key, len(samples), scanned.image_shape)
    named, pairs = _named_groups([sample.group for sample in samples])
    near, cut_off = near_pairs(
        looks["hash"], looks["std"], looks["digest"], images, config.near_duplicates
    )
    np.save(folder / "labels.npy", labels)
    np.save(folder / "splits.npy", np.array(splits, dtype=np.int8))
    np.save(folder / "groups.npy", groups_of(looks["digest"], np.concatenate([near, pairs])))
    np.save(folder / "named.npy", named)
    np.save(folder / "looks.npy", looks)
    np.save(folder / "near.npy", near)
    rows = [(s.id, s.label, s.group) for s in samples]
    _write_csv(folder / "samples.csv", ("id", "label", "group"), rows)
    rows = [(reject.id, reject.label, reject.reason) for reject in scanned.rejected]
    _write_csv(folder / "quarantine.csv", ("id", "label", "reason"), rows)
    meta = {
        "class_names": class_names,
        "image_shape": scanned.image_shape,
        "depth": scanned.depth,
        "fingerprint": scanned.fingerprint,
        "quarantined": len(rows),
        "near_cut_off": cut_off,
    }
    (folder / "store.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")


@contextmanager
def _building_site(home: Path) -> Iterator[Path]:
    """A folder to build a store in, gone at the end; those that killed processes left go first."""
    with ExitStack() as stack:
        with locked(home / "lock"):
            for left in home.glob("building.*/"):
                with locked(_lock_of(left), wait=False) as abandoned:
                    if abandoned:
                        _remove_site(left)
            building = Path(tempfile.mkdtemp(prefix="building.", dir=home))
            stack.callback(_remove_site, building)
            stack.enter_context(locked(_lock_of(building)))
        yield building


def _lock_of(building: Path) -> Path:
    return building.with_name(f"{building.name}.lock")


def _remove_site(building: Path) -> None:
    shutil.rmtree(building, ignore_errors=True)
    _lock_of(building).unlink(missing_ok=True)


def _rename(building: Path, folder: Path) -> None:
    # All of it is on the disk before it has its name: after the power failed it must not be half a store.
    for path in building.iterdir():
        sync(path)
    sync(building)
    try:
        building.rename(folder)
        sync(folder.parent)
    except OSError:
        # Another run may have finished the same store first, and then it is ours too.
        if not folder.exists():
            raise


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # File names are bytes on Linux: one that is no text must not stop the run.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
