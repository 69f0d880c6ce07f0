"""The loop: it learns, repeats itself bit for bit, and stops where the loss is no number."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from imgrec.config import ARCHS, Arch
from imgrec.data.decode import pictures_at_once
from imgrec.data.loader import Shard
from imgrec.errors import DivergedError, TrainingError
from imgrec.training.learner import build_learner
from imgrec.training.loop import fit
from tests.unit.training.made import CPU, spec_for, trained, weights


@pytest.mark.parametrize("arch", ARCHS)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(arch: Arch, tmp_path: Path) -> None:
    """What cannot be repeated cannot be explained."""
    spec = spec_for(arch, tmp_path)
    first, second = trained(spec), trained(spec)
    other = trained(replace(spec, seed=1))

    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_a_loss_that_is_no_number_stops_the_fit_with_the_cure(tmp_path: Path) -> None:
    """Hours of training on nan help nobody."""
    spec = spec_for(
        "ann",
        tmp_path,
        "train.optimizer='sgd'",
        "train.learning_rate=10",
        "train.weight_decay=1",
        "train.max_grad_norm=0",
        "train.epochs=40",
        "train.warmup=0",
    )
    learner = build_learner(spec, CPU, Shard())
    nn.init.constant_(learner.model.head.weight, float("inf"))

    with pytest.raises(DivergedError, match=r"epoch 1: lower ann\.train\.learning_rate \(now 10\)"):
        fit(learner, on_epoch=lambda _: None)


def test_an_epoch_is_judged_by_pictures_as_large_as_its_own(tmp_path: Path) -> None:
    """Whole ones in the end; and an epoch of smaller ones is never kept before one of larger ones."""
    learner = build_learner(
        spec_for("cnn", tmp_path, "data.image_size=32", "train.epochs=5"), CPU, Shard()
    )
    sides: list[int] = []
    learner.evaluated.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[2]))

    fit(learner, on_epoch=lambda _: None)

    assert sides == sorted(sides)
    assert set(sides) == {16, 24, 32}
    assert learner.best is not None
    assert learner.spec.share_after(learner.best.epoch) == 1
    scores = replace(learner.best.val, macro_f1=1.0, loss=0.0)
    learner.epochs_done = 1
    assert not learner.keep_if_best(scores)


def test_memory_that_runs_out_in_an_evaluation_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a batch would not."""
    learner = build_learner(spec_for("ann", tmp_path), CPU, Shard())

    def run_out(*_: object) -> None:
        msg = "DefaultCPUAllocator: can't allocate memory"
        raise RuntimeError(msg)

    monkeypatch.setattr(learner.evaluated, "forward", run_out)

    with pytest.raises(TrainingError, match=r"evaluated at once: lower data\.image_size"):
        fit(learner, on_epoch=lambda _: None)


@pytest.mark.parametrize(("side", "most"), [(8, 512), (128, 64), (512, 4), (1024, 1)])
def test_fewer_large_pictures_are_evaluated_at_once(side: int, most: int) -> None:
    """512 of 512 pixels took 34 GB."""
    assert pictures_at_once((side, side, 3)) == most
