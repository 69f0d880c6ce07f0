"""Where denoising helps and where it hurts: CIFAR-10 files, clean in training, noisy in the test.

    CIFAR=/tmp/data uv run pytest -m bench -s tests/bench/test_denoise.py

CIFAR is where ../shared/data/cifar10-jpeg.tar.xz was unpacked. It takes about 45 minutes on one core.
"""

import os
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from imgrec.classifier import Classifier
from imgrec.config import load_config
from imgrec.data.loader import Shard
from imgrec.data.store import Store
from imgrec.training.learner import build_learner
from imgrec.training.loop import fit
from pipelines.evaluate import build_classifier
from pipelines.prepare import prepare

DENOISERS = ("", "gaussian", "median", "bilateral", "non_local_means")
SEEDS = (0, 1, 2)
TRAINED, TESTED = 1000, 500  # of each class
Noise = Callable[[Tensor], Tensor]


def clean(images: Tensor) -> Tensor:
    """As they are."""
    return images


def gaussian(images: Tensor) -> Tensor:
    """Deviation 0.1 of the range, every value by itself."""
    noisy = images + 25.5 * torch.randn(images.shape)
    return noisy.round().clamp(0, 255).to(torch.uint8)


def salt_and_pepper(images: Tensor) -> Tensor:
    """Of 20 pixels one is black or white."""
    drawn = torch.rand(len(images), 1, *images.shape[2:])
    return torch.where(drawn < 0.025, 0, torch.where(drawn > 0.975, 255, images))


@pytest.mark.bench
@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif("CIFAR" not in os.environ, reason="needs the CIFAR-10 files; see above")
def test_denoising_helps_against_its_own_noise(tmp_path: Path) -> None:
    """Each denoiser in a classifier of its own, trained alike; three seeds."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    _link(Path(os.environ["CIFAR"]), tmp_path / "cifar")
    noises: tuple[Noise, ...] = (clean, gaussian, salt_and_pepper)
    print("\n" + " ".join(f"{name:>24}" for name in ("", *(noise.__name__ for noise in noises))))
    found: dict[tuple[str, Noise], list[float]] = {}
    for seed in SEEDS:
        for denoiser in DENOISERS:
            classifier, store, test = _trained(tmp_path, denoiser, seed)
            for noise in noises:
                found.setdefault((denoiser, noise), []).append(
                    _accuracy(classifier, store, test, noise)
                )
            _print(f"{denoiser or 'none'}, seed {seed}", [found[denoiser, n][-1:] for n in noises])
    for denoiser in DENOISERS:
        _print(denoiser or "none", [found[denoiser, noise] for noise in noises])

    means = {key: statistics.mean(values) for key, values in found.items()}
    assert max(means[d, gaussian] for d in DENOISERS[1:]) > means["", gaussian]
    assert means["median", salt_and_pepper] > means["", salt_and_pepper]


def _link(cifar: Path, folder: Path) -> None:
    for split, count in (("train", TRAINED), ("test", TESTED)):
        for source in sorted((cifar / split).iterdir()):
            target = folder / split / source.name
            target.mkdir(parents=True)
            for picture in sorted(source.iterdir())[:count]:
                (target / picture.name).symlink_to(picture)


def _trained(folder: Path, denoiser: str, seed: int) -> tuple[Classifier, Store, np.ndarray]:
    config = load_config(
        settings=[
            f"data.source={str(folder / 'cifar')!r}",
            f"storage={str(folder / 'mlruns')!r}",
            'archs=["cnn"]',
            f"seed={seed}",
            f"preprocess.filters={[denoiser] if denoiser else []}",
            f"train.epochs={os.environ.get('EPOCHS', '12')}",
            f"cnn.model.widths={os.environ.get('WIDTHS', '[32,64,64]')}",
        ]
    )
    prepared = prepare(config, lambda *_: None)
    learner = build_learner(prepared.specs["cnn"], torch.device("cpu"), Shard())
    fit(learner, on_epoch=lambda _: None)
    assert learner.best
    classifier = build_classifier(prepared, learner.spec, learner.best, "fp32").classifier
    return classifier, prepared.store, prepared.splits.test


def _accuracy(classifier: Classifier, store: Store, rows: np.ndarray, noise: Noise) -> float:
    torch.manual_seed(0)
    hits = 0
    for start in range(0, len(rows), 250):
        chosen = rows[start : start + 250]
        images = noise(torch.from_numpy(store.images[chosen]).permute(0, 3, 1, 2))
        labels = torch.from_numpy(store.labels[chosen])
        hits += int((classifier.logits(images).argmax(1) == labels).sum())
    return hits / len(rows)


def _print(name: str, columns: list[list[float]]) -> None:
    cells = [
        f"{statistics.mean(values):.4f}"
        + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")
        for values in columns
    ]
    print(" ".join(f"{cell:>24}" for cell in (name, *cells)), flush=True)
