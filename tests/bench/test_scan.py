"""Scan and decode of many small files against bare loops.

    CIFAR=/tmp/data uv run pytest -m bench -s tests/bench/test_scan.py

CIFAR is where ../shared/data/cifar10-jpeg.tar.xz was unpacked: 60,000 JPEG files. Two minutes.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import decode_image, read_file

from imgrec.config import DataConfig
from imgrec.data.store import find_store, prepare_store
from imgrec.machine import available_cores
from tests.conftest import no_progress

LOOPED = 6000
ROUNDS = 3


def with_pil(path: str) -> object:
    """Pillow, the usual way."""
    return np.asarray(Image.open(path).convert("RGB"))


def with_torchvision(path: str) -> object:
    """The decoder that comes with torchvision."""
    return decode_image(read_file(path))


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.skipif("CIFAR" not in os.environ, reason="needs the CIFAR-10 files; see above")
def test_scan_and_decode_are_as_fast_as_bare_loops_on_all_cores(tmp_path: Path) -> None:
    """With everything that a scan does: hashes, duplicates, statistics, the store itself."""
    torch.set_num_threads(1)
    cores = available_cores()
    source = os.environ["CIFAR"]
    files = sorted(map(str, Path(source, "train").rglob("*.jpg")))[::8][:LOOPED]
    config = DataConfig(source=source)
    bare: dict[str, float] = {}
    scans: list[float] = []
    for number in range(ROUNDS):
        for loop in (with_pil, with_torchvision):
            bare[loop.__name__] = max(bare.get(loop.__name__, 0.0), _files_per_second(loop, files))
        storage = tmp_path / str(number)
        started = time.perf_counter()
        store = prepare_store(config, storage, progress=no_progress)
        scans.append(len(store.labels) / (time.perf_counter() - started))
        started = time.perf_counter()
        assert find_store(config, storage)
        again = time.perf_counter() - started
        shutil.rmtree(storage)
    for name, speed in bare.items():
        print(f"\n{name}: {speed:,.0f} files/s on one core", end="")
    ratio = max(scans) / (max(bare.values()) * cores)
    print(f"\nscan and decode: {', '.join(f'{s:,.0f}' for s in scans)} files/s on {cores} cores")
    print(f"ratio {ratio:.2f} of the faster loop times {cores}; found again in {again:.2f} s")

    assert ratio >= 0.9


def _files_per_second(loop: Callable[[str], object], files: list[str]) -> float:
    started = time.perf_counter()
    for file in files:
        loop(file)
    return len(files) / (time.perf_counter() - started)
