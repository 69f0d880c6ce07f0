"""Scan and decode of many small files against bare loops.

    CIFAR=/tmp/data uv run pytest -m bench -s tests/bench/test_scan.py

CIFAR is where ../shared/data/cifar10-jpeg.tar.xz was unpacked: 60,000 JPEG files. Two minutes.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgrec.config import DataConfig
from imgrec.data.store import find_store, prepare_store
from imgrec.machine import available_cores
from tests.conftest import no_progress

ROUNDS = 3
BARE = {
    "Pillow": "numpy.asarray(PIL.Image.open(path).convert('RGB'))",
    "torchvision": "decode_image(read_file(path))",
}
LOOP = """
import sys, numpy, torch, PIL.Image
from pathlib import Path
from torchvision.io import decode_image, read_file
torch.set_num_threads(1)
source, first, step = sys.argv[1:]
paths = sorted(map(str, Path(source).rglob("*.jpg")))[int(first)::int(step)]
print(len(paths), flush=True)
sys.stdin.readline()
for path in paths:
    {decode}
print("done", flush=True)
"""


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.skipif("CIFAR" not in os.environ, reason="needs the CIFAR-10 files; see above")
def test_scan_and_decode_are_nearly_as_fast_as_bare_loops_on_all_cores(tmp_path: Path) -> None:
    """With everything that a scan does: hashes, duplicates, statistics, the store itself."""
    source = os.environ["CIFAR"]
    config = DataConfig(source=source)
    bare: dict[str, list[float]] = {name: [] for name in BARE}
    scans: list[float] = []
    for number in range(ROUNDS):
        for name, decode in BARE.items():
            bare[name].append(_files_per_second(decode, source))
        storage = tmp_path / str(number)
        started = time.perf_counter()
        store = prepare_store(config, storage, progress=no_progress)
        scans.append(len(store.labels) / (time.perf_counter() - started))
        started = time.perf_counter()
        assert find_store(config, storage)
        again = time.perf_counter() - started
        shutil.rmtree(storage)
    for name, speeds in [*bare.items(), ("imgrec", scans)]:
        print(f"\n{name}: {', '.join(f'{speed:,.0f}' for speed in speeds)} files/s", end="")
    ratio = statistics.median(scans) / max(map(statistics.median, bare.values()))
    print(f"\nratio {ratio:.2f} to the faster pair of loops; found again in {again:.2f} s")

    assert ratio >= 0.7


def _files_per_second(decode: str, source: str) -> float:
    """Of a bare loop on each core, side by side, each over its share of the files; without what it takes to start and to end."""
    cores = available_cores()
    loops = [
        subprocess.Popen(
            [sys.executable, "-c", LOOP.format(decode=decode), source, str(number), str(cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(cores)
    ]
    counts = [int(loop.stdout.readline()) for loop in loops]  # type: ignore[union-attr]
    started = time.perf_counter()
    for loop in loops:
        loop.stdin.write("go\n")  # type: ignore[union-attr]
        loop.stdin.flush()  # type: ignore[union-attr]
    for loop in loops:
        loop.stdout.readline()  # type: ignore[union-attr]
    seconds = time.perf_counter() - started
    for loop in loops:
        loop.communicate()
    return sum(counts) / seconds
