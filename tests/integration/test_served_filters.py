"""Every filter is part of what is registered: MLflow's model sees what training saw."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import torch

from imgrec.classifier import Card, Classifier
from imgrec.config import CnnConfig, TrackingConfig
from imgrec.data.decode import encode_png
from imgrec.models import build_model
from imgrec.models.build import lay_out
from imgrec.preprocess.augment import Augmentation
from imgrec.preprocess.recipe import ChannelStatistics, Recipe
from imgrec.preprocess.view import View
from imgrec.tracking.connection import connect
from imgrec.tracking.registry import register
from imgrec.tracking.runs import start_run
from tests.conftest import picture
from tests.integration.tracking.made import NOTHING
from tests.unit.preprocess.made import EVERY

SHAPE = (24, 24, 3)


def test_training_classifier_and_registered_model_agree_to_1e_5(tmp_path: Path) -> None:
    """Eight models, each with one filter, loaded by MLflow in a process of its own."""
    tracking = connect(TrackingConfig(), tmp_path / "mlruns", create=True)
    model = CnnConfig(widths=(8, 16))
    statistics = ChannelStatistics((0.4, 0.5, 0.3), (0.2, 0.3, 0.25))
    files = []
    for number in range(6):
        files.append(tmp_path / f"{number}.png")
        picture(number % 3, number, SHAPE[:2]).save(files[-1])
    pixels = np.stack([np.asarray(picture(n % 3, n, SHAPE[:2])) for n in range(6)])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    expected = {}
    for one in EVERY:
        torch.manual_seed(len(one.filter))
        network = lay_out(build_model(model, SHAPE, 3)).eval()
        recipe = Recipe(statistics, [one], Augmentation(flip=True, policy="randaugment")).eval()
        with torch.inference_mode():
            expected[one.filter] = network(recipe(images)).softmax(1).tolist()
        card = Card(
            model=model,
            image_shape=SHAPE,
            stored_shape=SHAPE,
            view=View(SHAPE[:2]),
            resize="fill",
            max_pixels=10_000,
            filters=(one,),
            statistics=statistics,
            class_names=("a", "b", "c"),
        )
        classifier = Classifier(card, network.state_dict())
        ours = [list(p.probabilities.values()) for p in classifier.predict(_read(files))]
        np.testing.assert_allclose(ours, expected[one.filter], atol=1e-5)
        tags = {"imgrec.arch": "cnn", "data.fingerprint": "f", "data.splits": "s"}
        with start_run(tracking, "filters", one.filter, {}) as run:
            example = encode_png(pixels[0])
            register(
                run,
                f"{one.filter}-cnn",
                classifier,
                example,
                tags | {"val/macro_f1": "0.5"},
                NOTHING,
            )
    code = f"""
import json
import mlflow, pandas as pd
mlflow.set_tracking_uri({tracking.uri!r})
rows = pd.DataFrame({{"image": [open(file, "rb").read() for file in {[str(f) for f in files]!r}]}})
found = {{}}
for name in {[one.filter for one in EVERY]!r}:
    model = mlflow.pyfunc.load_model(f"models:/{{name}}-cnn/1")
    found[name] = [list(p.values()) for p in model.predict(rows)["probabilities"]]
print(json.dumps(found))
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.strip().splitlines()[-1])

    for name, probabilities in expected.items():
        np.testing.assert_allclose(found[name], probabilities, atol=1e-5, err_msg=name)
    folder = Path(mlflow.artifacts.download_artifacts("models:/median-cnn/1"))
    needs = (folder / "requirements.txt").read_text()
    assert "kornia==" in needs
    assert "simplejpeg==" in needs
    assert "ray" not in needs


def _read(files: list[Path]) -> list[bytes]:
    return [file.read_bytes() for file in files]
