"""Stores and samples of folders that the tests make."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from imgrec.config import DataConfig
from imgrec.data.findings import Findings
from imgrec.data.sources import open_source
from imgrec.data.sources.listing import list_samples
from imgrec.data.sources.sample import Sample
from imgrec.data.store import Store, prepare_store
from tests.conftest import no_progress

MakeFolder = Callable[..., Path]
MakePhotos = Callable[..., Path]


def prepared(folder: Path, storage: Path, **settings: object) -> Store:
    config = DataConfig(source=str(folder), **settings)
    return prepare_store(config, storage, progress=no_progress)


def samples_of(source: str) -> list[Sample]:
    config = DataConfig(source=source)
    return list_samples(open_source(config, Path("downloads")), config)


def with_splits(make_folder: MakeFolder, *names: str) -> Path:
    folder = make_folder()
    root = folder.parent / "splits"
    root.mkdir()
    for name in names:
        for label in ("left", "middle", "right"):
            (root / name / label).mkdir(parents=True)
        for path in sorted(folder.glob("*/*.png")):
            (root / name / path.parent.name / path.name).write_bytes(path.read_bytes())
    return root


def found_in(folder: Path, **settings: object) -> Findings:
    config = DataConfig(source=str(folder), **settings)
    store = prepare_store(config, folder.parent / "storage", progress=no_progress)
    return Findings(store, config.allow_leakage)


MAX_PIXELS = 100_000


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as a file of some kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
