"""fp32, bf16 or fp16: by a rule of the kinds of device, never by a clock."""

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from imgrec.config import AnnConfig, Arch, CnnConfig
from imgrec.config.architectures import MODEL_CONFIGS
from imgrec.data.loader import Pictures, Shard, training_batches
from imgrec.errors import DivergedError
from imgrec.training.learner import Learner, build_learner
from imgrec.training.loop import fit, train_epoch
from imgrec.training.precision import choose_arithmetic, device_kind, has_bf16
from tests.unit.training.made import CPU, spec_for, trained, weights


@pytest.mark.parametrize("setting", ["bf16", "fp16", "fp32"])
def test_a_precision_that_is_set_is_obeyed(setting: Any) -> None:
    """`auto` may choose; the user may know better."""
    assert choose_arithmetic(setting, AnnConfig(), ["anything"]) == setting


ZEN, AMX, XEON = "AuthenticAMD avx512_bf16", "GenuineIntel amx_bf16", "GenuineIntel avx512_bf16"


@pytest.mark.parametrize(
    ("arch", "kinds", "taken"),
    [
        ("cnn", [ZEN], "bf16"),
        ("cnn", [AMX], "bf16"),
        ("cnn", [ZEN, AMX], "bf16"),
        ("cnn", [XEON], "fp32"),
        ("cnn", [ZEN, XEON], "fp32"),
        ("cnn", ["arm64"], "fp32"),
        ("ann", [ZEN], "fp32"),
        ("rnn", [AMX], "fp32"),
        ("ann", ["cuda bf16", "cuda bf16"], "bf16"),
        ("ann", ["cuda bf16", "cuda"], "fp32"),
        ("ann", ["cuda fp16"], "fp16"),
        ("cnn", ["cuda fp16", "cuda bf16"], "fp16"),
        ("cnn", ["cuda fp16", "cuda"], "fp32"),
        ("cnn", [], "fp32"),
    ],
)
def test_auto_precision_is_a_rule_of_the_kinds_of_device(
    arch: Arch, kinds: list[str], taken: str
) -> None:
    """The same for all workers, and on any day: nothing is timed. Where kinds differ, fp32."""
    model: Any = MODEL_CONFIGS[arch]()

    assert choose_arithmetic("auto", model, kinds) == taken


def test_networks_of_timm_gain_by_bf16_whatever_their_architecture() -> None:
    """They are large; the compact ann is not."""
    mixer = AnnConfig(backbone="resmlp_12_224")

    assert choose_arithmetic("auto", mixer, [AMX]) == "bf16"
    assert choose_arithmetic("auto", mixer, [XEON]) == "fp32"


def test_no_clock_has_a_part_in_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy moment decided it, once a storage: two clones on one machine came to other scores."""

    def refuse() -> float:
        raise AssertionError

    monkeypatch.setattr(time, "perf_counter", refuse)

    kind = device_kind(CPU)
    assert choose_arithmetic("auto", CnnConfig(), [kind]) == choose_arithmetic(
        "auto", CnnConfig(), [kind]
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "bf16", "capability", "kind"),
    [
        ("NVIDIA A100", True, (8, 0), "cuda bf16"),
        ("Tesla T4", False, (7, 5), "cuda fp16"),
        ("Tesla V100", False, (7, 0), "cuda fp16"),
        ("NVIDIA GeForce GTX 1650", False, (7, 5), "cuda"),
        ("GeForce GTX 1080", False, (6, 1), "cuda"),
    ],
)
def test_a_gpu_is_of_the_kind_of_its_matrix_units(
    name: str,
    bf16: bool,
    capability: tuple[int, int],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of one that has the capability and no units."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    has_bf16.cache_clear()
    try:
        assert device_kind(torch.device("cuda")) == kind
    finally:
        has_bf16.cache_clear()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_in_fp16_learns_and_goes_on_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    """Its gradients are scaled, so that small ones are not lost; the scale is a part of a checkpoint."""
    settings = ("train.precision='fp16'", "train.epochs=6", f"train.optimizer='{optimizer}'")
    spec = spec_for("ann", tmp_path, *settings, "train.max_grad_norm=1.0")
    through = trained(spec)
    resumed = trained(spec, stop_after=3, folder=tmp_path / "checkpoint")
    plain = trained(spec_for("ann", tmp_path, *settings[1:], "train.precision='fp32'"))

    assert torch.equal(weights(through), weights(resumed))
    assert resumed.scaler.get_scale() == through.scaler.get_scale() > 1
    assert through.best is not None
    assert plain.best is not None
    assert through.best.val.accuracy > plain.best.val.accuracy - 0.05
    assert plain.scaler.get_scale() == 1


def refuse_to_move(learner: Learner) -> None:
    """Fails where two steps change a weight."""
    pictures = Pictures(learner.store, CPU)
    batches = training_batches(
        pictures, learner.splits.train, batch_size=16, seed=0, epoch=0, shard=Shard()
    )
    before = [one.detach().clone() for one in learner.model.parameters()]
    train_epoch(learner, itertools.islice(batches, 2), lambda _: None)
    assert all(map(torch.equal, learner.model.parameters(), before))


def test_a_step_whose_gradients_overflow_is_left_out(tmp_path: Path) -> None:
    """The weights stay as they are, and the next scale is smaller."""
    spec = spec_for("ann", tmp_path, "train.precision='fp16'")
    learner = build_learner(spec, CPU, Shard())
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    refuse_to_move(learner)
    assert learner.scaler.get_scale() == 2.0**124  # halved twice


def test_where_one_gradient_overflows_no_optimizer_steps(tmp_path: Path) -> None:
    """Clipping would carry it to the weights of the other one."""
    spec = spec_for(
        "transformer",
        tmp_path,
        "train.precision='fp16'",
        "train.optimizer='muon'",
        "train.max_grad_norm=1.0",
    )
    learner = build_learner(spec, CPU, Shard())
    assert len(learner.optimizers) == 2
    bias = next(one for group in learner.optimizers[1].param_groups for one in group["params"])
    bias.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    refuse_to_move(learner)


def test_gradients_that_overflow_at_any_scale_end_the_fit(tmp_path: Path) -> None:
    """With the cure, in place of epochs in which nothing is learned."""
    spec = spec_for("ann", tmp_path, "train.precision='fp16'")
    learner = build_learner(spec, CPU, Shard())
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=0.5)
    with pytest.raises(DivergedError, match=r"set ann\.train\.precision = 'fp32'"):
        fit(learner, on_epoch=lambda _: None)


def test_training_in_bf16_learns_too(tmp_path: Path) -> None:
    """Half the bits, the same digits."""
    spec = spec_for("cnn", tmp_path, "train.precision='bf16'", "train.epochs=15")
    learner = trained(spec)

    assert learner.best is not None
    assert learner.best.val.accuracy > 0.9
