"""fp32 or bf16: by a rule of the kinds of device, never by a clock."""

import time
from pathlib import Path
from typing import Any

import pytest

from imgrec.config import AnnConfig, Arch, CnnConfig
from imgrec.config.architectures import MODEL_CONFIGS
from imgrec.training.precision import choose_arithmetic, device_kind
from tests.unit.training.made import CPU, spec_for, trained


@pytest.mark.parametrize("setting", ["bf16", "fp32"])
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


def test_training_in_bf16_learns_too(tmp_path: Path) -> None:
    """Half the bits, the same digits."""
    spec = spec_for("cnn", tmp_path, "train.precision='bf16'", "train.epochs=15")
    learner = trained(spec)

    assert learner.best is not None
    assert learner.best.val.accuracy > 0.9
