"""Pictures and stores that the tests make themselves."""

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import settings
from PIL import Image
from skimage.data import astronaut, chelsea

import imgrec.distributed  # noqa: F401 - what Ray reads when it is imported, before a test imports it
from imgrec.config import DataConfig
from imgrec.data.store import Store, prepare_store

ROOT = Path(__file__).parents[1]

NO_SKIPS = "IMGREC_NO_SKIPS"
"""Set in CI: a test that lacks a service fails instead of being skipped."""

LONGEST_FILES = frozenset(
    {
        "test_cluster.py",
        "test_command_line.py",
        "test_fit_on_workers.py",
        "test_kills.py",
        "test_photos.py",
        "test_runs.py",
    }
)
"""Two minutes and more each."""

# How long an example takes, the machine decides, and the first one of a process imports what it needs.
settings.register_profile("imgrec", deadline=None)
settings.load_profile("imgrec")

# What a developer has set must not decide what the tests see.
for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS"):
    os.environ.pop(variable, None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where files are divided among processes, the longest come first, or one would be left with them."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A check that nobody makes is no check."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(NO_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped, and {NO_SKIPS} is set: {report.longrepr}"
    return report


def processes_of(parent: psutil.Process, name: str) -> list[psutil.Process]:
    """The living processes below one whose command line holds a name, such as `LoneWorker`."""
    found = []
    for child in parent.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end while it is looked at
            if name in " ".join(child.cmdline()):
                found.append(child)
    return found


def no_progress(what: str, done: int, total: int) -> None:
    """For those who do not watch."""


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[None]:
    """A server of ours that answers inside, in a thread of this process."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def picture(label: int, seed: int, size: tuple[int, int] = (12, 12)) -> Image.Image:
    """A noisy colour picture whose class shows in which third is bright."""
    rng = np.random.default_rng([label, seed])
    pixels = rng.integers(0, 90, (*size, 3), dtype=np.uint8)
    third = size[1] // 3
    pixels[:, label * third : (label + 1) * third] += 140
    return Image.fromarray(pixels)


def write_photos(folder: Path) -> Path:
    """Two classes of 14 parts of a photograph each, of 128 pixels: large enough to be taken for photos."""
    for name, photo in (("cat", chelsea()), ("woman", astronaut())):
        (folder / name).mkdir(parents=True)
        for number in range(14):
            top, left = 24 * (number // 4), 80 * (number % 4)
            part = Image.fromarray(photo[top : top + 128, left : left + 128])
            part.resize((128, 128)).save(folder / name / f"{number:02d}.png")
    return folder


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a folder of class folders, `count` pictures each."""

    def make(count: int = 20, classes: tuple[str, ...] = ("left", "middle", "right")) -> Path:
        folder = tmp_path / "pictures"
        for label, name in enumerate(classes):
            (folder / name).mkdir(parents=True)
            for index in range(count):
                picture(label, index).save(folder / name / f"{index:03d}.png")
        return folder

    return make


@pytest.fixture
def make_large_photos(tmp_path: Path) -> Callable[[], Path]:
    """A function that writes photos that are large enough to be taken for some."""
    return lambda: write_photos(tmp_path / "large")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the bundled digits."""
    return prepare_store(DataConfig(), tmp_path_factory.mktemp("digits"), progress=no_progress)
