"""A classifier in other forms: the same answers from the file alone."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from imgrec.classifier import Card, Classifier
from imgrec.config import (
    AnnConfig,
    CnnConfig,
    ModelConfig,
    RnnConfig,
    TransformerConfig,
)
from imgrec.config.filters import FILTERS
from imgrec.errors import ClassifierError, ConfigError
from imgrec.evaluation import golden
from imgrec.models import build_model, count_parameters
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.preprocess.view import View
from imgrec.serving import export as exporting
from imgrec.serving.export import Graph, export
from tests.integration.serving.made import make_classifier, save

SMALL: list[ModelConfig] = [
    AnnConfig(hidden=(8,)),
    CnnConfig(widths=(8, 16)),
    RnnConfig(hidden=16),
    TransformerConfig(width=32, depth=1),
    CnnConfig(backbone="test_efficientnet", pretrained=False),
]


def classifier_of(model: ModelConfig) -> Classifier:
    """Of colour pictures that are stored larger than the model sees them, filtered, with priors and a temperature."""
    shape = (16, 16, 3)
    card = Card(
        model=model,
        image_shape=shape,
        stored_shape=(20, 20, 3),
        view=View((16, 16), 0.9, "bicubic"),
        resize="fill",
        max_pixels=1_000_000,
        filters=(FILTERS["gaussian"](), FILTERS["unsharp"]()),
        statistics=ChannelStatistics((0.3, 0.4, 0.5), (0.4, 0.3, 0.2)),
        class_names=("cat", "dog", "owl"),
        temperature=1.7,
        log_priors=(0.1, -0.3, 0.2),
    )
    torch.manual_seed(3)
    return Classifier(card, build_model(model, shape, 3).state_dict())


@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize("model", SMALL, ids=lambda one: f"{one.arch}-{one.backbone}")
def test_a_graph_answers_as_the_classifier_does_in_batches_of_any_size(
    model: ModelConfig, form: str, tmp_path: Path
) -> None:
    """Preprocessing is inside: only uint8 pixels go in."""
    classifier = classifier_of(model)
    folder = save(classifier, tmp_path / "saved")
    out = tmp_path / f"out.{form}"
    parity = export(classifier, folder, form, out)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 20, 20), dtype=np.uint8)
    if form == "onnx":
        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        answers = [session.run(None, {"images": pixels[:size]})[0] for size in (1, 5)]
        kept = {one.key: one.value for one in onnx.load(str(out)).metadata_props}
    else:
        kept = {"class_names": "", "height": ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about its own code
            program = torch.export.load(out, extra_files=kept).module()
        answers = [program(torch.from_numpy(pixels[:size])).numpy() for size in (1, 5)]
        kept = {key: str(value) for key, value in kept.items()}
    expected = classifier.probabilities(torch.from_numpy(pixels)).numpy()

    assert parity.pictures > 20
    for answer in answers:
        np.testing.assert_allclose(answer, expected[: len(answer)], atol=1e-4)
    assert json.loads(kept["class_names"]) == ["cat", "dog", "owl"]
    assert json.loads(kept["height"]) == 20


def test_a_graph_has_each_kernel_once(tmp_path: Path) -> None:
    """Normalizations are part of the kernels there, and nothing of them is left."""
    classifier = classifier_of(SMALL[-1])
    out = tmp_path / "out.pt2"
    export(classifier, save(classifier, tmp_path / "saved"), "torch", out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own code
        program = torch.export.load(out)

    assert not [name for name in program.state_dict if "running" in name or "folded" in name]
    numbers = [*program.state_dict.values(), *program.constants.values()]
    kernels = sum(one.numel() for one in numbers if isinstance(one, torch.Tensor))
    # Folded biases take the place of scales and shifts; the rest is preprocessing, a few numbers.
    assert kernels < 1.1 * count_parameters(classifier.model)


def test_an_archive_of_torch_needs_no_imgrec(tmp_path: Path) -> None:
    """It is for programs that have never heard of us."""
    classifier = classifier_of(SMALL[0])
    out = tmp_path / "out.pt2"
    export(classifier, save(classifier, tmp_path / "saved"), "torch", out)
    code = f"""
import sys, torch
program = torch.export.load({str(out)!r}).module()
answer = program(torch.zeros(3, 3, 20, 20, dtype=torch.uint8))
assert answer.shape == (3, 3), answer.shape
assert not [name for name in sys.modules if name.startswith(("imgrec", "kornia", "timm"))]
"""
    ended = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert ended.returncode == 0, ended.stderr


def test_a_folder_is_what_was_registered(tmp_path: Path) -> None:
    """With its golden pictures, for a server that has no MLflow."""
    classifier = make_classifier()
    folder = save(classifier, tmp_path / "saved")
    parity = export(classifier, folder, "folder", tmp_path / "out")

    assert parity.largest == 0.0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "classifier.json",
        golden.FILE,
        "model.safetensors",
    ]


def test_what_answers_otherwise_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything overwritten."""
    classifier = make_classifier()
    folder, out = save(classifier, tmp_path / "saved"), tmp_path / "out.pt2"

    class Wrong(Graph):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images).flip(1)

    monkeypatch.setattr(exporting, "Graph", Wrong)
    with pytest.raises(ClassifierError, match="is answered otherwise there"):
        export(classifier, folder, "torch", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]
    out.write_text("mine")
    with pytest.raises(ConfigError, match="there is something already"):
        export(classifier, folder, "torch", out)
    assert out.read_text() == "mine"
