"""How fast one process trains and judges a network, and the memory that it takes: its loop alone, without Ray and a record.

    python -m tests.bench.step --data photos/ --arch cnn --set cnn.train.finetune=full

Each `--set` is as of imgrec. The pictures are brought into a store below `--out` once. To compare two states of the code, run
this file itself with PYTHONPATH=CLONE of the one and of the other, in turns.
"""

import argparse
import itertools
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from imgrec.config import load_config
from imgrec.data.loader import Batch, Pictures, Shard, training_batches
from imgrec.machine import collect_seldom, keep_memory
from imgrec.training.learner import build_learner
from imgrec.training.loop import evaluate, train_epoch
from pipelines.prepare import prepare

ROUNDS, STEPS, JUDGED = 3, 4, 2000


def main() -> None:
    """Print the best of some rounds, and what was judged."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--data", required=True)
    asked.add_argument("--arch", default="cnn")
    asked.add_argument("--out", type=Path, default=Path("step"))
    asked.add_argument("--set", action="append", default=[], dest="settings")
    words = asked.parse_args()
    collect_seldom()
    keep_memory()
    settings = [f"storage='{words.out}'", f"data.source='{words.data}'", f"archs=['{words.arch}']"]
    config = load_config(None, [*settings, *words.settings])
    spec = prepare(config, lambda *_: None).specs[words.arch]
    learner = build_learner(spec, torch.device("cpu"), Shard())
    learner.epochs_done = spec.train.epochs - 1  # whose pictures are whole
    pictures = Pictures(learner.store, learner.device)

    def batches(count: int) -> Iterator[Batch]:
        every = training_batches(
            pictures,
            learner.splits.train,
            batch_size=spec.train.batch_size,
            seed=0,
            epoch=0,
            shard=Shard(),
        )
        return itertools.islice(every, count)

    train_epoch(learner, batches(2), lambda _: None)
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        train_epoch(learner, batches(STEPS), lambda _: None)
        seconds.append(time.perf_counter() - began)
    rows = learner.splits.choosing[:JUDGED]
    began = time.perf_counter()
    evaluate(learner, pictures, rows)
    judged = len(rows) / (time.perf_counter() - began)
    trained = STEPS * spec.train.batch_size / min(seconds)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{words.arch}, batch {spec.train.batch_size}, {learner.precision.arithmetic}: trains {trained:,.1f} images/s, "
        f"judges {judged:,.0f}, {most:,} MB"
    )


if __name__ == "__main__":
    main()
