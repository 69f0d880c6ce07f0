"""CIFAR-10 as JPEG files on one GPU: seconds to an accuracy, images/s and share of the card's peak.

    python -m tests.bench.gpu --data FOLDER [--out FILE] [--archs cnn,...] [--device cuda] [--fits 2]
    python -m tests.bench.gpu --data FOLDER --set train.cuda_graphs=true

Needs torch and this repository's core, with what it reads pictures by (pydantic, numpy, Pillow, simplejpeg,
filelock, safetensors); not Ray. MLflow (mlflow-skinny) is imported and not used. Each architecture is fitted twice with its defaults, in this process:
the first pays for whatever a device does once, the last is what counts. The seconds are those of
training steps; evaluation, after every epoch, is told apart.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from imgrec.config import load_config
from imgrec.data.loader import Pictures, Shard
from imgrec.data.splits import make_splits
from imgrec.data.store import open_store
from imgrec.training.clock import EVALUATION
from imgrec.training.learner import build_learner
from imgrec.training.loop import SPENT, evaluate, fit
from imgrec.training.spec import FitSpec
from imgrec.training.throughput import gpu_bytes, gpu_name, peak_flops, training_flops
from pipelines.prepare import prepare

GOAL = 0.90


def measure(spec: FitSpec, device: torch.device) -> dict[str, Any]:
    """One fit, and the best epoch's accuracy on the test split."""
    started = time.perf_counter()
    learner = build_learner(spec, device, Shard())
    built = time.perf_counter()
    fit(learner, on_epoch=lambda _: None)
    ended = time.perf_counter()
    training, reached = 0.0, None
    for epoch in learner.history:
        training += epoch["epoch_seconds"] - epoch[f"{SPENT}{EVALUATION}"]
        if reached is None and epoch["val/accuracy"] >= GOAL:
            reached = training
    assert learner.best is not None
    learner.evaluated.load_state_dict(learner.best.weights)
    store = open_store(spec.store)
    rows = make_splits(store, spec.data).test
    test = evaluate(learner, Pictures(store, device), rows)
    images = spec.train.epochs * spec.steps_per_epoch * spec.train.batch_size
    cost = statistics.fmean(spec.cost(epoch) for epoch in range(spec.train.epochs))
    flops = training_flops(learner.model, spec.image_shape) * cost * images / training
    peak = peak_flops(gpu_name(device), str(learner.precision))
    return {
        "build_seconds": built - started,
        "training_seconds": training,
        "fit_seconds": ended - built,
        "seconds_to_goal": reached,
        "test_accuracy": test.accuracy,
        "val_accuracies": [epoch["val/accuracy"] for epoch in learner.history],
        "images_per_second": images / training,
        "flops_per_second": flops,
        "share_of_peak": flops / peak if peak else None,
        "gpu_bytes": gpu_bytes(device),
        "precision": str(learner.precision),
        "epochs": spec.train.epochs,
        "batch_size": spec.train.batch_size,
    }


def main() -> None:
    """Prepare, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--archs", default="cnn,transformer,rnn,ann")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--fits", type=int, default=2)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    archs = arguments.archs.split(",")
    with tempfile.TemporaryDirectory() as storage:
        settings = [f"storage='{storage}'", f"data.source='{arguments.data}'", f"archs={archs}"]
        config = load_config(None, [*settings, *arguments.settings])
        specs = prepare(config, lambda *_: None).specs
        card = gpu_name(device) or "CPU"
        found: dict[str, Any] = {"card": card, "torch": torch.__version__}
        for arch, spec in specs.items():
            found[arch] = [measure(spec, device) for _ in range(arguments.fits)]
            first, last = found[arch][0], found[arch][-1]
            reached, share = last["seconds_to_goal"], last["share_of_peak"]
            print(
                f"{card}  {arch:12} test accuracy {last['test_accuracy']:.4f}  training "
                f"{last['training_seconds']:.1f} s (at first {first['training_seconds']:.1f} s), "
                f"{GOAL:.2f} {'not reached' if reached is None else f'after {reached:.1f} s'}  "
                f"{last['images_per_second']:,.0f} images/s  "
                f"{last['flops_per_second'] / 1e12:.2f} TFLOP/s"
                + (f" ({100 * share:.0f} % of peak)" if share else ""),
                flush=True,
            )
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
