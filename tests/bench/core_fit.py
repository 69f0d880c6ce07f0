"""A cnn by imgrec's core, in one process, where neither Ray nor a record is at hand.

    python -m tests.bench.core_fit --data FOLDER --storage FOLDER [--set cnn.train.finetune=probe ...]

What `imgrec train --arch cnn` does, but for workers, record and registry: pictures to a store, splits, the fit, a
calibrated classifier, its scores. Needs torch and timm; MLflow is imported and not used. Prints one object of JSON.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from imgrec.config import load_config
from imgrec.data.loader import Shard
from imgrec.training.learner import build_learner
from imgrec.training.loop import fit
from pipelines.evaluate import build_classifier, evaluate
from pipelines.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    asked = parser.parse_args()
    settings = [f"storage='{asked.storage}'", f"data.source='{asked.data}'", "archs=['cnn']"]
    prepared = prepare(load_config(None, [*settings, *asked.settings]), lambda *_: None)
    spec = prepared.specs["cnn"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.perf_counter()
    learner = build_learner(spec, device, Shard())
    fit(learner, on_epoch=lambda _: None)
    fitted = time.perf_counter() - started
    assert learner.best is not None
    arithmetic = learner.precision.arithmetic
    classifier = build_classifier(prepared, spec, learner.best, arithmetic).classifier
    test = evaluate(classifier, prepared, spec, learner.best, arithmetic)
    found = {
        "val": learner.best.val.accuracy,
        "test": test.scores.accuracy,
        "fit_seconds": fitted,
        "best_epoch": learner.best.epoch,
        "val_by_epoch": [epoch["val/accuracy"] for epoch in learner.history],
        "network": spec.model.backbone,
        "arithmetic": arithmetic,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
