"""Which parameters which optimizer takes, what is decayed, and how the rate moves."""

from pathlib import Path

import pytest
from torch import nn

from imgrec.config import ModelConfig, TrainConfig, TransformerConfig, load_config
from imgrec.data.loader import Shard
from imgrec.models import build_model
from imgrec.training.learner import build_learner
from imgrec.training.optim import build_optimizers, build_schedules
from tests.unit.training.made import CPU, spec_for


def test_muon_takes_the_inner_matrices_and_adamw_the_rest(tmp_path: Path) -> None:
    """The first and last layers, norms and biases are not what Muon was made for."""
    spec = spec_for("transformer", tmp_path, "transformer.model.tokens=patches")
    model = build_learner(spec, CPU, Shard()).model
    muon, adamw = build_optimizers(model, spec.train)
    inside = {id(weight) for group in muon.param_groups for weight in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in inside}
    count = sum(len(group["params"]) for opt in (muon, adamw) for group in opt.param_groups)

    assert names == {f"blocks.0.{n}.weight" for n in ("qkv", "out", "mlp.0", "mlp.2")}
    assert count == len(list(model.parameters()))


def test_a_recurrent_first_layer_is_a_first_layer_in_both_directions(tmp_path: Path) -> None:
    """What reads the pixels from the top and what reads them from the bottom are trained alike."""
    spec = spec_for("rnn", tmp_path, "rnn.model.tokens=rows", "rnn.train.optimizer=muon")
    model = build_learner(spec, CPU, Shard()).model
    muon, _ = build_optimizers(model, spec.train)
    inside = {id(weight) for group in muon.param_groups for weight in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in inside}

    assert names == {"rnn.weight_hh_l0", "rnn.weight_hh_l0_reverse"}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_biases_and_norms_are_not_decayed(optimizer: str, tmp_path: Path) -> None:
    """They have no reason to be small."""
    spec = spec_for("cnn", tmp_path, f"train.optimizer='{optimizer}'")
    model = build_learner(spec, CPU, Shard()).model
    (built,) = build_optimizers(model, spec.train)

    for group in built.param_groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


@pytest.mark.parametrize(
    ("config", "undecayed"),
    [
        (TransformerConfig(backbone="vit_tiny_patch16_224"), ("cls_token", "pos_embed")),
        (
            TransformerConfig(backbone="swin_tiny_patch4_window7_224"),
            ("relative_position_bias_table",),
        ),
    ],
)
def test_what_is_a_matrix_by_its_shape_only_is_not_decayed(
    config: ModelConfig, undecayed: tuple[str, ...]
) -> None:
    """Positions and layer scales multiply no input: pulled towards zero they only get lost."""
    model = build_model(config, (64, 64, 3), 2)
    (built,) = build_optimizers(model, TrainConfig(optimizer="adamw", weight_decay=0.1))
    decayed = {
        id(p) for group in built.param_groups if group["weight_decay"] for p in group["params"]
    }
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    matrices = {name for name, p in model.named_parameters() if p.ndim >= 2}

    assert not [name for name in names if name.endswith(undecayed)]
    assert [name for name in matrices if name.endswith(undecayed)]
    assert all(name.endswith(undecayed) for name in matrices - names)


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_the_learning_rate_rises_peaks_and_ends_near_zero(decay: str) -> None:
    """Per step, not per epoch."""
    config = load_config(None, [f"train.decay='{decay}'", "train.warmup=0.2"]).branches[0].train
    model = nn.Linear(2, 2)
    optimizers = build_optimizers(model, config)
    (schedule,) = build_schedules(optimizers, config, total_steps=100)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0] / config.learning_rate)
        optimizers[0].step()
        schedule.step()

    assert rates[0] < 0.06
    assert rates[20] == pytest.approx(1.0)
    assert max(rates) == rates[20]
    assert rates[-1] < 0.02
