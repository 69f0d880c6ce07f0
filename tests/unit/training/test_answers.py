"""What the kept weights say of the pictures that judge them."""

from pathlib import Path

import numpy as np
import torch

from imgrec.data.loader import Pictures, Shard
from imgrec.data.splits import make_splits
from imgrec.training.answers import NAME, read_answers, write_answers
from imgrec.training.learner import build_learner
from imgrec.training.loop import fit
from tests.unit.training.made import CPU, spec_for


def test_the_answers_are_those_of_the_kept_weights(tmp_path: Path) -> None:
    """Of the best epoch, which need not be the last; and what a group of another size has left counts no more."""
    learner = build_learner(spec_for("cnn", tmp_path), CPU, Shard())
    pictures = Pictures(learner.store, CPU)
    fit(learner, on_epoch=lambda _: None, pictures=pictures)
    best = learner.best
    assert best
    folder = tmp_path / "result"
    folder.mkdir()
    for rank in range(2):
        np.save(folder / NAME.format(rank=rank, workers=11), np.zeros((1, 10)))

    write_answers(learner, pictures, folder)
    read = read_answers(folder, learner.splits)

    assert read
    learner.evaluated.load_state_dict(best.weights)
    learner.evaluated.eval()
    for logits, rows in zip(read, (learner.splits.val, learner.splits.test), strict=True):
        images, _ = pictures.take(rows)
        with torch.inference_mode():
            again = learner.evaluated(learner.recipe.eval()(images))
        # Sums of 1,000 products in fp32, in another order where a batch has another size.
        assert torch.allclose(logits, again, atol=1e-4)
    assert len(list(folder.iterdir())) == 1


def test_answers_that_are_not_whole_are_none(tmp_path: Path) -> None:
    """A worker has died before its part was there; whoever registers computes them then."""
    spec = spec_for("ann", tmp_path)
    splits = make_splits(build_learner(spec, CPU, Shard()).store, spec.data)
    np.save(tmp_path / NAME.format(rank=0, workers=2), np.zeros((1, 10)))

    assert read_answers(tmp_path, splits) is None
    assert read_answers(tmp_path / "nowhere", splits) is None
