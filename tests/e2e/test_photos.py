"""Somebody with a folder of photos, and no network."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import write_photos
from tests.e2e.user import imgrec

RANDOM = "random weights"
LITE0 = "tf_efficientnet_lite0.in1k"
NOBODY = "http://127.0.0.1:9"


def offline(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command with an empty cache, and a hub that does not answer."""
    return imgrec(*words, cwd=cwd, HF_ENDPOINT=NOBODY, HF_HOME=str(cwd / "hf"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all four were trained."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder / "photos")
    return folder


def words_of(folder: Path) -> list[str]:
    return ["run", "--data", str(folder / "photos"), "--set", "train.epochs=2"]


@pytest.fixture(scope="module")
def ran(folder: Path) -> subprocess.CompletedProcess[str]:
    return offline(*words_of(folder), "--json", cwd=folder)


def test_the_cnn_begins_from_packaged_weights_and_the_others_from_noise(
    ran: subprocess.CompletedProcess[str],
) -> None:
    """All four end; one line says what the three did instead, and how to have more."""
    assert ran.returncode == 0, ran.stderr
    models = {model["arch"]: model for model in json.loads(ran.stdout)["models"]}
    began = {arch: model["begins_with"] for arch, model in models.items()}
    (line,) = (line for line in ran.stderr.splitlines() if "compact, from random weights" in line)

    assert began == {"ann": RANDOM, "cnn": LITE0, "rnn": RANDOM, "transformer": RANDOM}
    assert models["cnn"]["test"]["accuracy"] > 0.5
    assert f"the hub ({NOBODY}) does not answer" in line
    assert "imgrec fetch resmlp_12_224.fb_in1k" in line


def test_what_it_began_with_is_told_wherever_models_are(
    ran: subprocess.CompletedProcess[str], folder: Path
) -> None:
    """A pretrained network beside three from noise compares beginnings, not architectures."""
    assert ran.returncode == 0, ran.stderr
    listed = json.loads(offline("models", "--json", cwd=folder).stdout)["models"]
    again = offline(*words_of(folder), cwd=folder)
    checked = offline("check", str(folder / "photos"), "--json", cwd=folder)
    planned = offline(*words_of(folder), "--plan", "--json", cwd=folder)

    assert {model["arch"]: model["begins_with"] for model in listed}["cnn"] == LITE0
    assert "begins with" in again.stdout + again.stderr
    assert "model taken from the record: photos-cnn version 1" in again.stderr
    assert any(LITE0 in note for note in json.loads(checked.stdout)["decided"])
    assert {stage["state"] for stage in json.loads(planned.stdout)["stages"]} == {"done"}


def test_a_photo_of_any_size_is_recognized(
    ran: subprocess.CompletedProcess[str], folder: Path
) -> None:
    """The served model makes the same resize and crop, and fetches nothing."""
    assert ran.returncode == 0, ran.stderr
    from PIL import Image
    from skimage.data import chelsea

    Image.fromarray(chelsea()).resize((900, 600)).save(folder / "new.jpg")
    said = offline("predict", "photos-cnn", "new.jpg", "--json", cwd=folder)

    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["predictions"][0]["label"] == "cat"
