"""imgrec check and preview, and a run on uneven noisy data, as their users meet them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, chelsea

from imgrec.config import TrackingConfig
from imgrec.tracking.connection import connect
from imgrec.tracking.query import find_runs
from tests.conftest import picture
from tests.e2e.user import imgrec


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Parts of two photographs: 60 of the one, 15 of the other, with train and test."""
    for split, left in (("train", 0), ("test", 150)):
        for name, photo, count in (("cat", chelsea(), 60), ("woman", astronaut(), 15)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                top, side = 3 * number, left + 40 * (number % 3)
                part = photo[top : top + 80, side : side + 80]
                Image.fromarray(part).resize((24, 24)).save(folder / f"{number:02d}.png")
    return tmp_path / "photos"


def test_check_finds_prints_draws_and_logs(photos: Path) -> None:
    """Leakage ends with status 2, with everything else said and drawn all the same."""
    shutil.copy(photos / "train" / "cat" / "00.png", photos / "test" / "cat" / "leak.png")
    (photos / "train" / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    ended = imgrec("check", "photos", "--quiet", cwd=photos.parent)

    assert ended.returncode == 2
    assert "imgrec: " in ended.stderr
    assert "data.allow_leakage = true" in ended.stderr
    assert "error   1 picture in train and in test" in ended.stdout
    assert "warning 1 file left out (such as train/cat/broken.jpg" in ended.stdout
    page = Path(ended.stdout.rstrip().rpartition("page ")[2].strip())
    assert "test/cat/leak.png" in page.read_text(encoding="utf-8")

    tracking = connect(TrackingConfig(), photos.parent / "mlruns", create=False)
    (run,) = find_runs(tracking, {"imgrec.kind": "check"})
    artifacts = {item.path for item in tracking.client.list_artifacts(run.id)}
    assert {page.name, "quarantine.csv", "data_findings.json"} <= artifacts
    assert run.metrics["data/quarantined"] == 1

    refused = imgrec("run", "--data", "photos", "--arch", "ann", cwd=photos.parent)
    assert refused.returncode == 2
    assert "in train and in test" in refused.stderr.splitlines()[-1]


def test_check_speaks_json_and_opens_the_page(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One object for scripts; --open asks the browser that the desktop is set to."""
    note = photos.parent / "opened.txt"
    browser = photos.parent / "browser"
    browser.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(note)!r}, 'w').write(sys.argv[1])\n"
    )
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    ended = imgrec("check", "photos", "--json", "--open", cwd=photos.parent)
    found = json.loads(ended.stdout)

    assert ended.returncode == 0, ended.stderr
    assert found["usable"] is True
    assert found["classes"]["woman"] == {"train": 15, "val": 0, "test": 15, "unsplit": 0}
    assert found["imbalance_ratio"] == 4
    assert note.read_text() == Path(found["page"]).as_uri()


def test_preview_draws_what_the_model_will_see(photos: Path) -> None:
    """A row for each picture: original, filtered, and draws that differ."""
    settings = ["--set", 'preprocess.filters=["grey"]', "--set", "preprocess.mixup=0.4"]
    ended = imgrec(
        "preview",
        "--data",
        "photos",
        "--out",
        "seen/it.png",
        "--json",
        *settings,
        cwd=photos.parent,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    pixels = np.asarray(Image.open(photos.parent / "seen" / "it.png").convert("RGB")).astype(int)

    assert said["filters"] == ["grey"]
    assert "mixup 0.4" in said["augment"]
    # The first column is in colour, the others are grey.
    colorful = (pixels.max(2) - pixels.min(2)) > 60
    width = pixels.shape[1] // 8
    assert colorful[:, :width].sum() > 20 * max(1, colorful[:, 2 * width :].sum())


def test_uneven_noisy_data_end_as_a_model_that_says_so(photos: Path) -> None:
    """Filters, augmentation and the handling of rare classes, on record and in what is served."""
    (photos / "train" / "cat" / "empty.png").write_bytes(b"")
    settings = [
        'preprocess.filters=["median", {filter = "unsharp", amount = 0.5}]',
        'preprocess.policy="trivialaugment"',
        "preprocess.cutmix=1.0",
        "train.epochs=3",
        "ann.model.hidden=[32]",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    ended = imgrec(
        "train", "--arch", "ann", "--data", "photos", "--json", *words, cwd=photos.parent
    )
    assert ended.returncode == 0, ended.stderr
    (model,) = json.loads(ended.stdout)["models"]

    assert "train.imbalance = logit_adjustment (classes of" in ended.stderr
    assert "filters: median, unsharp" in ended.stderr
    assert "data: 1 file left out (such as train/cat/empty.png: empty file)" in ended.stderr
    assert model["test"]["balanced_accuracy"] > 0.5  # both classes are told, the rare one too
    tracking = connect(TrackingConfig(), photos.parent / "mlruns", create=False)
    run = tracking.client.get_run(model["run_id"])
    assert run.data.params["train.imbalance"] == "logit_adjustment"
    assert {"test/worst_recall", "test/few_shot_accuracy"} <= set(run.data.metrics)
    assert "preview.png" in {item.path for item in tracking.client.list_artifacts(model["run_id"])}
    (version,) = tracking.client.search_model_versions("name = 'photos-ann'")
    assert version.tags["data.quarantined"] == "1"

    one = str(photos / "test" / "cat" / "00.png")
    predicted = imgrec("predict", "photos-ann", one, "--json", cwd=photos.parent)
    assert predicted.returncode == 0, predicted.stderr
    assert set(json.loads(predicted.stdout)["predictions"][0]["probabilities"]) == {"cat", "woman"}


@pytest.mark.long
def test_scores_name_the_classes_that_a_split_lacks(tmp_path: Path) -> None:
    """A run on such data goes on, and says of what its test accuracy says nothing."""
    for split, count in (("train", 40), ("test", 20)):
        for label, name in enumerate(("left", "middle", "right")):
            if (split, name) != ("test", "right"):
                (tmp_path / "photos" / split / name).mkdir(parents=True)
                for number in range(count):
                    path = tmp_path / "photos" / split / name / f"{number:02d}.png"
                    picture(label, number + 100 * (split == "test")).save(path)
    words = ["run", "--data", "photos", "--arch", "ann", "--set", "train.epochs=20"]
    ran = imgrec(*words, cwd=tmp_path)
    told = imgrec(*words, "--json", cwd=tmp_path)

    assert ran.returncode == told.returncode == 0, ran.stderr
    assert "test has no picture of right: its scores say nothing of that" in ran.stdout
    assert json.loads(told.stdout)["data"]["unscored"] == {"test": ["right"]}
