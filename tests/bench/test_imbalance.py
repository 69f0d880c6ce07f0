"""What each way of handling rare classes is worth, on long-tailed CIFAR-10.

    CIFAR=/tmp/data uv run pytest -m bench -s tests/bench/test_imbalance.py

CIFAR is where ../shared/data/cifar10-jpeg.tar.xz was unpacked. It takes about an hour on one core.
"""

import os
import statistics
from pathlib import Path

import pytest
import torch

from imgrec.config import load_config
from imgrec.data.loader import Shard
from imgrec.evaluation.scores import evaluate_classifier
from imgrec.training.learner import build_learner
from imgrec.training.loop import fit
from pipelines.evaluate import build_classifier
from pipelines.prepare import prepare

WAYS = ("none", "weights", "sampler", "focal", "logit_adjustment")
SEEDS = (0, 1, 2)
EPOCHS = os.environ.get("EPOCHS", "20")
WIDTHS = os.environ.get("WIDTHS", "[32,64,64]")


@pytest.mark.bench
@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif("CIFAR" not in os.environ, reason="needs the CIFAR-10 files; see above")
def test_the_best_handling_of_rare_classes_beats_none_by_four_points(tmp_path: Path) -> None:
    """Balanced accuracy on the balanced test split, three seeds each, all else alike."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    counts = make_long_tail(Path(os.environ["CIFAR"]), tmp_path / "longtail")
    print(f"\ntraining pictures: {counts}")
    scores = {way: [_balanced_accuracy(tmp_path, way, seed) for seed in SEEDS] for way in WAYS}
    means = {way: statistics.mean(found) for way, found in scores.items()}

    assert max(means.values()) >= means["none"] + 0.04


def _balanced_accuracy(folder: Path, way: str, seed: int) -> float:
    settings = [
        f"data.source={str(folder / 'longtail')!r}",
        "data.val_fraction=0.05",
        f"storage={str(folder / 'mlruns')!r}",
        'archs=["cnn"]',
        f"seed={seed}",
        f"train.imbalance={way}",
        f"train.epochs={EPOCHS}",
        f"cnn.model.widths={WIDTHS}",
    ]
    prepared = prepare(load_config(settings=settings), lambda *_: None)
    spec = prepared.specs["cnn"]
    learner = build_learner(spec, torch.device("cpu"), Shard())
    fit(learner, on_epoch=lambda _: None)
    assert learner.best
    found = evaluate_classifier(
        build_classifier(prepared, spec, learner.best, "fp32").classifier,
        prepared.store,
        prepared.splits.test,
        spec.class_counts,
    )
    print(
        f"{way:17} seed {seed}  balanced {found.scores.balanced_accuracy:.4f}"
        f"  macro-F1 {found.scores.macro_f1:.4f}  worst {found.scores.worst_recall:.4f}"
        f"  epoch {learner.best.epoch}  {learner.history[-1]['images_per_second']:.0f} images/s",
        flush=True,
    )
    return found.scores.balanced_accuracy


def make_long_tail(cifar: Path, folder: Path, ratio: float = 100) -> list[int]:
    """Link a share of each class's training pictures, and all test pictures, into a folder.

    Source of the profile: Cao et al. 2019, "Learning Imbalanced Datasets with
    Label-Distribution-Aware Margin Loss" (arXiv:1906.07413): class i of K keeps
    n * ratio**(-i / (K - 1)) pictures.

    Returns:
        Training pictures of each class, in alphabetical order.
    """
    classes = sorted(path.name for path in (cifar / "train").iterdir())
    counts = []
    for index, name in enumerate(classes):
        pictures = sorted((cifar / "train" / name).iterdir())
        count = int(len(pictures) * ratio ** (-index / (len(classes) - 1)))
        counts.append(count)
        for split, chosen in (
            ("train", pictures[:count]),
            ("test", sorted((cifar / "test" / name).iterdir())),
        ):
            target = folder / split / name
            target.mkdir(parents=True)
            for picture in chosen:
                (target / picture.name).symlink_to(picture)
    return counts
