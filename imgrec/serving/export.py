"""A classifier for programs that know nothing of imgrec: preprocessing and network as one graph, from uint8 pixels on.

What decodes a picture stays outside of it: the graph takes pixels as `stored_shape` has them, (B, C, H, W) uint8, upright,
brought to that size by `resize`; the file's metadata says all of that. It gives probabilities (B, K) float32 as the
classifier does, with temperature and priors. Every file is held to the golden pictures before it is there.
"""

import copy
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from imgrec.classifier import WEIGHTS, Classifier
from imgrec.data.content import InMemoryFile
from imgrec.data.guarded import decode_all
from imgrec.errors import ClassifierError, ConfigError, DecodeError
from imgrec.evaluation.golden import (
    FILE,
    MOST_DIFFERENT,
    Parity,
    Probabilities,
    compare_answers,
    golden_answers,
)
from imgrec.models.folding import drop_norms
from imgrec.named import CARD

Format = Literal["folder", "torch", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)
MOST_DIFFERENT_KERNELS = 1e-4
"""That probabilities may differ by where another program computes: its kernels round otherwise at every layer."""
INPUT, OUTPUT = "images", "probabilities"
EXTRA = {"onnx": "uv pip install 'imgrec[onnx]'"}
Pixels = npt.NDArray[np.uint8]
Asked = Callable[[Pixels], npt.NDArray[np.float32]]
"""Pixels (B, C, H, W) to probabilities (B, K), as the written file has them."""


class Graph(nn.Module):
    """What is exported."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        card = classifier.card
        self.recipe, self.model = classifier.recipe, classifier.model
        self.register_buffer("temperature", torch.tensor(card.temperature))
        priors = card.log_priors or (0.0,) * len(card.class_names)
        self.register_buffer("log_priors", torch.tensor(priors))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) uint8 to probabilities (B, K) float32."""
        logits = self.model(self.recipe(images)).float()
        return torch.softmax(logits / self.temperature + self.log_priors, dim=1)


def export(classifier: Classifier, folder: Path, form: Format, out: Path) -> Parity:
    """Write a classifier in another form, and say how alike it answers.

    Args:
        classifier: Which.
        folder: Where it lies, as `Classifier.save` wrote it.
        form: `folder`: the same files, for `imgrec serve` without MLflow; `torch`: an archive of `torch.export`; `onnx`.
        out: The file, or folder, which must not exist.

    Raises:
        ConfigError: something is there already, or the package for this form is not installed.
        ClassifierError: the network cannot be exported, or answers otherwise there.
    """
    if out.exists():
        msg = f"{out}: there is something already; choose another name"
        raise ConfigError(msg)
    if not out.absolute().parent.is_dir():
        msg = f"{out}: there is no folder {out.absolute().parent}"
        raise ConfigError(msg)
    pictures, answers = golden_answers(classifier)
    if form == "folder":
        return _copied(folder, out, answers)
    unfinished = out.with_name(f"{out.name}.unfinished")
    try:
        asked = WAYS[form](classifier, unfinished)
        contents = [InMemoryFile(content) for content in pictures.values()]
        decoded = list(decode_all(contents, classifier.decoding))
        pixels = np.stack([one for one in decoded if not isinstance(one, DecodeError)])
        shares = asked(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        alone = asked(np.ascontiguousarray(pixels[:1].transpose(0, 3, 1, 2)))
        names = classifier.card.class_names
        told = {
            name: dict(zip(names, map(float, row), strict=True))
            for name, row in zip(pictures, shares, strict=True)
        }
        parity = _held(compare_answers(answers, told), MOST_DIFFERENT_KERNELS, out)
        if np.abs(alone - shares[:1]).max() > MOST_DIFFERENT_KERNELS:
            msg = f"{out}: one picture alone is answered otherwise than among others"
            raise ClassifierError(msg)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return parity


def _copied(folder: Path, out: Path, answers: Probabilities) -> Parity:
    out.mkdir()
    try:
        for name in (CARD, WEIGHTS, FILE):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, out / name)
        again = golden_answers(Classifier.load(out))[1]
        return _held(compare_answers(answers, again), MOST_DIFFERENT, out)
    except BaseException:
        shutil.rmtree(out)
        raise


def _held(parity: Parity, most: float, out: Path) -> Parity:
    if parity.largest > most:
        msg = f"{out}: {parity.where} is answered otherwise there, by {parity.largest:.1e}; nothing is written"
        raise ClassifierError(msg)
    return parity


def _metadata(classifier: Classifier) -> dict[str, str]:
    """What whoever asks the graph needs to know."""
    card = classifier.card
    height, width, channels = card.stored_shape
    about = {
        "class_names": list(card.class_names),
        "height": height,
        "width": width,
        "channels": channels,
        "resize": card.resize,
        "arch": card.model.arch,
        "made_by": "imgrec",
    }
    return {
        key: one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
        for key, one in about.items()
    }


def _example(classifier: Classifier) -> Tensor:
    """Two pictures: of one, a batch of one would be made a rule."""
    height, width, channels = classifier.card.stored_shape
    return torch.zeros(2, channels, height, width, dtype=torch.uint8)


def _as_torch(classifier: Classifier, file: Path) -> Asked:
    program = _traced(classifier)
    with _quietly():
        torch.export.save(program, file, extra_files=_metadata(classifier))
        loaded = torch.export.load(file).module()

    def ask(pixels: Pixels) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            answer: Tensor = loaded(torch.from_numpy(pixels))
        return answer.numpy()

    return ask


def _as_onnx(classifier: Classifier, file: Path) -> Asked:
    try:
        import onnx  # noqa: PLC0415 - of the extra
        import onnxruntime  # noqa: PLC0415 - of the extra
        import onnxscript  # noqa: F401, PLC0415 - of the extra; torch wants it
    except ImportError as error:
        msg = f"--format onnx needs another package: {EXTRA['onnx']}"
        raise ConfigError(msg) from error
    traced = _traced(classifier)
    with _quietly():
        program = torch.onnx.export(
            traced, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, _metadata(classifier))
    onnx.save(model, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def ask(pixels: Pixels) -> npt.NDArray[np.float32]:
        (answer,) = session.run([OUTPUT], {INPUT: pixels})
        shares: npt.NDArray[np.float32] = answer
        return shares

    return ask


def _traced(classifier: Classifier) -> torch.export.ExportedProgram:
    # A copy: what is exported is on the CPU and takes no gradients, whoever asks it.
    graph = copy.deepcopy(Graph(classifier)).to("cpu").eval().requires_grad_(requires_grad=False)
    drop_norms(graph)
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with _quietly():
            return torch.export.export(graph, (_example(classifier),), dynamic_shapes=sizes)
    except Exception as error:  # torch's own, of many kinds
        reason = str(error).strip().splitlines()[0]
        msg = f"torch cannot export this {classifier.card.model.arch}: {reason}"
        raise ClassifierError(msg) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Torch's exporters warn of their own code, and of nothing that a user could change."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


WAYS: dict[str, Callable[[Classifier, Path], Asked]] = {"torch": _as_torch, "onnx": _as_onnx}
