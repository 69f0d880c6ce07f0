"""The same pictures as every kind of source has them, and what comes of a source."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from imgrec.config import DataConfig
from imgrec.data.sources import open_source
from imgrec.data.sources.listing import list_samples
from imgrec.data.sources.sample import Sample
from imgrec.data.store import Store, prepare_store
from tests.conftest import no_progress, picture

CLASSES = ("left", "middle", "right")


Build = Callable[[Path], str]


def png(label: int, index: int) -> bytes:
    buffer = io.BytesIO()
    picture(label, index).save(buffer, "PNG")
    return buffer.getvalue()


def each_picture() -> Iterator[tuple[str, int, int, bytes]]:
    """Split, class, number and content: 12 to train on and 4 to test with, of each class."""
    for split, numbers in (("train", range(12)), ("test", range(12, 16))):
        for label in range(3):
            for number in numbers:
                yield split, label, number, png(label, number)


def as_folder(folder: Path) -> str:
    for split, label, number, content in each_picture():
        path = folder / "photos" / split / CLASSES[label] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder / "photos")


def _rows(folder: Path) -> list[dict[str, str]]:
    as_folder(folder)
    return [
        {
            "path": f"photos/{split}/{CLASSES[label]}/{number:02d}.png",
            "label": CLASSES[label],
            "split": split,
        }
        for split, label, number, _ in each_picture()
    ]


def as_csv(folder: Path) -> str:
    path = folder / "table.csv"
    rows = _rows(folder)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def as_table(folder: Path) -> str:
    path = folder / "table.parquet"
    parquet.write_table(pa.Table.from_pylist(_rows(folder)), path)
    return str(path)


def as_hugging_face(folder: Path) -> str:
    """As `datasets` writes it: a file for each split, labels as numbers, names beside them."""
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    (folder / "hf" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows = [
            {"image": {"bytes": content, "path": f"{number}.png"}, "label": label}
            for of, label, number, content in each_picture()
            if of == split
        ]
        table = pa.Table.from_pylist(rows).replace_schema_metadata(note)
        name = f"{split}-00000-of-00001.parquet"
        parquet.write_table(table, folder / "hf" / "data" / name, row_group_size=7)
    return str(folder / "hf")


def as_shards(folder: Path) -> str:
    """As WebDataset has it: 0001.png beside 0001.cls."""
    (folder / "shards").mkdir()
    for split in ("train", "test"):
        with tarfile.open(folder / "shards" / f"{split}-000.tar", "w") as tar:
            for of, label, number, content in each_picture():
                if of == split:
                    add(tar, f"{label}_{number:04d}.png", content)
                    add(tar, f"{label}_{number:04d}.cls", CLASSES[label].encode())
    return str(folder / "shards" / "*.tar")


def as_packed_folder(folder: Path) -> str:
    path = folder / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for split, label, number, content in each_picture():
            add(tar, f"photos/{split}/{CLASSES[label]}/{number:02d}.png", content)
    return str(path)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


EVERY: tuple[Build, ...] = (
    as_folder,
    as_csv,
    as_table,
    as_hugging_face,
    as_shards,
    as_packed_folder,
)


def stored(source: str, folder: Path, **settings: Any) -> Store:
    config = DataConfig(source=source, **settings)
    return prepare_store(config, folder / "storage", progress=no_progress)


def samples_of(source: str, folder: Path, **settings: Any) -> list[Sample]:
    config = DataConfig(source=source, **settings)
    return list_samples(open_source(config, folder / "downloads"), config)


def refuse_other_data(store: Store, reference: Store) -> None:
    assert store.fingerprint == reference.fingerprint
    assert store.class_names == CLASSES
    assert store.quarantined == 0
    for split in (0, 2):
        ours, theirs = (
            sorted(
                (int(label), image.tobytes())
                for image, label, given in zip(s.images, s.labels, s.given_splits, strict=True)
                if given == split
            )
            for s in (store, reference)
        )
        assert ours == theirs
