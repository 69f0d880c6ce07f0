"""The key of a fit names the code that can change a model, and no other."""

import shutil
from pathlib import Path

import pytest

from imgrec.version import PACKAGE, digest_of_fit, fit_version

WITHIN = [
    "training/loop.py",
    "training/muon.py",
    "models/cnn.py",
    "models/__init__.py",
    "preprocess/augment.py",
    "config/architectures/cnn.py",
    "data/decode.py",
    "data/loader.py",
    "evaluation/calibration.py",
]
WITHOUT = [
    "tracking/health.py",
    "tracking/registry.py",
    "distributed/jobs.py",
    "evaluation/pictures.py",
]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, tmp_path / "imgrec"))


def test_a_file_that_can_change_a_model_changes_the_key_of_its_fit(package: Path) -> None:
    """Else a model of other code would be taken from the record."""
    before = digest_of_fit(package)
    assert before == fit_version()
    for name in WITHIN:
        kept = (package / name).read_bytes()
        (package / name).write_bytes(kept + b"\n# changed\n")
        assert digest_of_fit(package) != before, name
        (package / name).write_bytes(kept)
    assert digest_of_fit(package) == before


def test_what_only_records_or_prints_changes_no_key(package: Path) -> None:
    """A comment in the registry must not train everything anew."""
    before = digest_of_fit(package)
    for name in WITHOUT:
        with (package / name).open("a") as file:
            file.write("\n# changed\n")
    assert digest_of_fit(package) == before
