"""What a learner saves and restores: as if nothing had happened."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imgrec.config import ARCHS, Arch
from imgrec.data.loader import Shard
from imgrec.training.checkpoint import load_state, save_state
from imgrec.training.learner import best_of, build_learner
from tests.unit.training.made import CPU, spec_for, trained, weights


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_resumed_fit_ends_with_the_same_weights_bit_for_bit(
    arch: Arch, optimizer: str, tmp_path: Path
) -> None:
    """A crash must not change the result; dropout and augmentation included."""
    spec = spec_for(arch, tmp_path, f"train.optimizer='{optimizer}'")
    through = trained(spec)
    resumed = trained(spec, stop_after=2, folder=tmp_path / "checkpoint")

    assert torch.equal(weights(through), weights(resumed))
    assert through.best is not None
    assert resumed.best is not None
    assert through.best.val == resumed.best.val
    assert [m["train/loss"] for m in through.history] == [m["train/loss"] for m in resumed.history]


def test_the_kept_weights_are_those_of_the_best_epoch_with_its_score(tmp_path: Path) -> None:
    """Not those of the last one."""
    spec = spec_for("ann", tmp_path, "train.epochs=8", "train.learning_rate=0.02")
    learner = trained(spec)
    scores = [(m["val/macro_f1"], -m["val/loss"]) for m in learner.history]
    best = learner.best

    assert best is not None
    assert scores[best.epoch - 1] == max(scores)
    assert best.val.macro_f1 == scores[best.epoch - 1][0]


def test_a_result_holds_the_best_weights_and_the_whole_history(tmp_path: Path) -> None:
    """It is all that the driver gets to see."""
    learner = trained(spec_for("ann", tmp_path))
    save_state(tmp_path / "result", learner.result())
    state = load_state(tmp_path / "result")
    best = best_of(state)

    assert best is not None
    assert best.weights.keys() == learner.model.state_dict().keys()
    assert len(state["history"]) == 3


@pytest.mark.parametrize("begun", ["bf16", "fp32"])
def test_what_was_begun_in_one_arithmetic_goes_on_in_it(begun: Any, tmp_path: Path) -> None:
    """Also on a machine whose kind would choose the other one."""
    spec = spec_for("cnn", tmp_path)
    other = "fp32" if begun == "bf16" else "bf16"
    first = build_learner(replace(spec, arithmetic=begun), CPU, Shard())
    first.save(tmp_path / "state")
    second = build_learner(replace(spec, arithmetic=other), CPU, Shard())
    second.restore(tmp_path / "state")

    assert replace(spec, arithmetic=begun).key == replace(spec, arithmetic=other).key == spec.key
    assert str(second.precision) == begun


def test_fp32_is_fp32_on_a_gpu_too(tmp_path: Path) -> None:
    """By itself torch takes TF32 for convolutions, and a GPU would answer otherwise than a CPU."""
    torch.backends.cudnn.allow_tf32 = True
    build_learner(spec_for("ann", tmp_path), CPU, Shard())
    assert not torch.backends.cudnn.allow_tf32
