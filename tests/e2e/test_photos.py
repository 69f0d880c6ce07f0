"""Somebody with a folder of photos, and no network."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import write_photos
from tests.e2e.user import imgrec, refuse_unregistered

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
    words = ["run", "--data", str(folder / "photos"), "--set", "train.epochs=2"]
    return [*words, "--set", "report.corrupted=0"]


@pytest.fixture(scope="module")
def ran(folder: Path) -> subprocess.CompletedProcess[str]:
    return offline(*words_of(folder), "--json", cwd=folder)


def test_the_cnn_begins_from_packaged_weights_and_the_others_from_noise(
    ran: subprocess.CompletedProcess[str],
) -> None:
    """All four end; one line says what the three did instead, and how to have more."""
    refuse_unregistered(ran)
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
    refuse_unregistered(ran)
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
    refuse_unregistered(ran)
    from PIL import Image
    from skimage.data import chelsea

    Image.fromarray(chelsea()).resize((900, 600)).save(folder / "new.jpg")
    said = offline("predict", "photos-cnn/1", "new.jpg", "--json", cwd=folder)

    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["predictions"][0]["label"] == "cat"


@pytest.mark.long
def test_a_model_of_ones_own_is_a_start_for_new_pictures(
    ran: subprocess.CompletedProcess[str], folder: Path
) -> None:
    """By name, without a network; and the same command again takes what came of it from the record."""
    refuse_unregistered(ran)
    write_photos(folder / "more")
    (folder / "more" / "woman").rename(folder / "more" / "person")
    words = ["run", "--data", str(folder / "more"), "--name", "photos", "--arch", "cnn"]
    words += ["--set", "cnn.model.pretrained=models:/photos-cnn/1", "--set", "train.epochs=2"]
    words += ["--set", "report.corrupted=0"]
    planned = offline(*words, "--plan", cwd=folder)
    begun = offline(*words, "--json", cwd=folder)
    again = offline(*words, cwd=folder)
    (model,) = json.loads(begun.stdout)["models"]
    versions = json.loads(offline("models", "--json", cwd=folder).stdout)["models"]

    assert planned.returncode == 0, planned.stderr
    assert "begins with the weights photos-cnn/1" in begun.stderr
    assert model["begins_with"] == "photos-cnn/1"
    assert model["test"]["accuracy"] > 0.5
    assert "has learned from" not in begun.stderr  # a picture stays in its split in other sets too
    assert "model taken from the record: photos-cnn version 2" in again.stderr
    assert sorted(one["version"] for one in versions if one["arch"] == "cnn") == [1, 2]


SMALL = {"cnn": "test_efficientnet", "transformer": "test_vit"}
LARGER = {"ann": "gmlp_ti16_224", "rnn": "sequencer2d_s"}
"""The smallest that timm has of these families: two minutes more."""


@pytest.mark.parametrize(
    "backbones", [SMALL, pytest.param(LARGER, marks=pytest.mark.long)], ids=["small", "larger"]
)
def test_all_four_families_go_through_the_whole_workflow_from_random_weights(
    backbones: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """Small networks of timm's: a mixer, a convolutional network, a Sequencer and a vision transformer."""
    settings = [
        f"{arch}.model={{backbone='{name}', pretrained=false}}" for arch, name in backbones.items()
    ]
    settings += [
        "data.image_size=224",
        "train.epochs=1",
        "train.batch_size=8",
        "train.start_size=1.0",
        "report.corrupted=0",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    words += ["--arch", ",".join(backbones)]
    done = offline("run", "--data", str(folder / "photos"), *words, "--json", cwd=tmp_path)
    refuse_unregistered(done)
    models = {model["arch"]: model for model in json.loads(done.stdout)["models"]}
    said = offline(
        "predict",
        f"photos-{[*backbones][-1]}/1",
        str(folder / "photos" / "cat" / "00.png"),
        cwd=tmp_path,
    )

    assert {arch: model["begins_with"] for arch, model in models.items()} == dict.fromkeys(
        backbones, RANDOM
    )
    assert all(0 <= model["test"]["accuracy"] <= 1 for model in models.values())
    assert said.returncode == 0, said.stderr
