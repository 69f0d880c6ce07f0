"""The loop: it learns, repeats itself bit for bit, resumes as if nothing had happened."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss, recall_score
from torch import nn

from imgrec.config import Arch, CnnConfig, DataConfig, TrainConfig, load_config
from imgrec.data.decode import pictures_at_once
from imgrec.data.loader import Pictures, Shard, training_batches
from imgrec.data.splits import make_splits
from imgrec.data.store import open_store
from imgrec.errors import DivergedError, TrainingError
from imgrec.models import build_model
from imgrec.preprocess.augment import NO_AUGMENTATION
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.training import checkpoint
from imgrec.training.checkpoint import latest_state, load_state, save_state
from imgrec.training.ema import MovingAverage
from imgrec.training.learner import Learner, best_of, build_learner
from imgrec.training.loop import EpochReport, fit, train_epoch
from imgrec.training.metrics import Meter
from imgrec.training.microbatch import in_more_parts, is_out_of_memory
from imgrec.training.optim import build_optimizers, build_schedules
from imgrec.training.precision import choose_arithmetic, device_kind
from imgrec.training.spec import FitSpec
from pipelines.prepare import prepare
from tests.conftest import no_progress

CPU = torch.device("cpu")
BARE_JOB = FitSpec(
    store=Path("store"),
    data=DataConfig(),
    seed=0,
    image_shape=(64, 64, 3),
    class_counts=(320, 320),
    model=CnnConfig(),
    train=TrainConfig(epochs=10, batch_size=64, imbalance="none", start_size=0.5),
    filters=(),
    statistics=ChannelStatistics((0.5,) * 3, (0.2,) * 3),
    augmentation=NO_AUGMENTATION,
)
SMALL = [
    "ann.model.hidden=[32, 32]",
    "cnn.model.widths=[8, 16]",
    "rnn.model.hidden=16",
    "transformer.model.width=16",
    "transformer.model.depth=1",
]
ARCHS: list[Arch] = ["ann", "cnn", "rnn", "transformer"]


def job_for(arch: Arch, storage: Path, *extra: str) -> FitSpec:
    config = load_config(None, [f"storage='{storage}'", "train.epochs=3", *SMALL, *extra])
    return prepare(config, no_progress).specs[arch]


def trained(spec: FitSpec, stop_after: int | None = None, folder: Path | None = None) -> Learner:
    """Fit; with stop_after, save to folder after that epoch and break off."""

    class StoppedError(Exception):
        pass

    learner = build_learner(spec, CPU, Shard())

    def on_epoch(report: EpochReport) -> None:
        if report.epoch == stop_after:
            assert folder is not None
            learner.save(folder)
            raise StoppedError

    try:
        fit(learner, on_epoch=on_epoch)
    except StoppedError:
        learner = build_learner(spec, CPU, Shard())
        assert folder is not None
        learner.restore(folder)
        fit(learner, on_epoch=lambda _: None)
    return learner


def weights(learner: Learner) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in learner.model.state_dict().values()])


@pytest.mark.parametrize("arch", ARCHS)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(arch: Arch, tmp_path: Path) -> None:
    """What cannot be repeated cannot be explained."""
    spec = job_for(arch, tmp_path)
    first, second = trained(spec), trained(spec)
    other = trained(replace(spec, seed=1))

    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_resumed_fit_ends_with_the_same_weights_bit_for_bit(
    arch: Arch, optimizer: str, tmp_path: Path
) -> None:
    """A crash must not change the result; dropout and augmentation included."""
    spec = job_for(arch, tmp_path, f"train.optimizer='{optimizer}'")
    through = trained(spec)
    resumed = trained(spec, stop_after=2, folder=tmp_path / "checkpoint")

    assert torch.equal(weights(through), weights(resumed))
    assert through.best is not None
    assert resumed.best is not None
    assert through.best.val == resumed.best.val
    assert [m["train/loss"] for m in through.history] == [m["train/loss"] for m in resumed.history]


def test_the_kept_weights_are_those_of_the_best_epoch_with_its_score(tmp_path: Path) -> None:
    """Not those of the last one."""
    spec = job_for("ann", tmp_path, "train.epochs=8", "train.learning_rate=0.02")
    learner = trained(spec)
    scores = [(m["val/macro_f1"], -m["val/loss"]) for m in learner.history]
    best = learner.best

    assert best is not None
    assert scores[best.epoch - 1] == max(scores)
    assert best.val.macro_f1 == scores[best.epoch - 1][0]


def test_a_loss_that_is_no_number_stops_the_fit_with_the_cure(tmp_path: Path) -> None:
    """Hours of training on nan help nobody."""
    spec = job_for(
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


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(1, 50), st.integers(0, 2**31))
def test_scores_are_those_of_scikit_learn(classes: int, count: int, seed: int) -> None:
    """Also where classes are missing from the labels, or never predicted."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    meter = Meter(classes, CPU)
    for part in range(0, count, 7):
        meter.update(logits[part : part + 7], labels[part : part + 7])
    scores = meter.scores()
    predicted = logits.argmax(1)

    assert scores.accuracy == pytest.approx((predicted == labels).float().mean().item())
    assert scores.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    seen = labels.unique().numpy()
    assert scores.balanced_accuracy == pytest.approx(
        recall_score(labels, predicted, labels=seen, average="macro")
    )
    probabilities = logits.double().softmax(1).numpy()
    assert scores.loss == pytest.approx(
        log_loss(labels, probabilities, labels=range(classes)), rel=1e-5
    )


def test_an_epoch_is_judged_by_pictures_as_large_as_its_own(tmp_path: Path) -> None:
    """Whole ones in the end; and an epoch of smaller ones is never kept before one of larger ones."""
    learner = build_learner(
        job_for("cnn", tmp_path, "data.image_size=32", "train.epochs=5"), CPU, Shard()
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


def test_muon_takes_the_inner_matrices_and_adamw_the_rest(tmp_path: Path) -> None:
    """The first and last layers, norms and biases are not what Muon was made for."""
    spec = job_for("transformer", tmp_path, "transformer.model.tokens=patches")
    model = build_learner(spec, CPU, Shard()).model
    muon, adamw = build_optimizers(model, spec.train)
    inside = {id(weight) for group in muon.param_groups for weight in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in inside}
    count = sum(len(group["params"]) for opt in (muon, adamw) for group in opt.param_groups)

    assert names == {f"blocks.0.{n}.weight" for n in ("qkv", "out", "mlp.0", "mlp.2")}
    assert count == len(list(model.parameters()))


def test_a_recurrent_first_layer_is_a_first_layer_in_both_directions(tmp_path: Path) -> None:
    """What reads the pixels from the top and what reads them from the bottom are trained alike."""
    spec = job_for("rnn", tmp_path, "rnn.model.tokens=rows", "rnn.train.optimizer=muon")
    model = build_learner(spec, CPU, Shard()).model
    muon, _ = build_optimizers(model, spec.train)
    inside = {id(weight) for group in muon.param_groups for weight in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in inside}

    assert names == {"rnn.weight_hh_l0", "rnn.weight_hh_l0_reverse"}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_biases_and_norms_are_not_decayed(optimizer: str, tmp_path: Path) -> None:
    """They have no reason to be small."""
    spec = job_for("cnn", tmp_path, f"train.optimizer='{optimizer}'")
    model = build_learner(spec, CPU, Shard()).model
    (built,) = build_optimizers(model, spec.train)

    for group in built.param_groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


@pytest.mark.parametrize(
    ("backbone", "undecayed"),
    [
        ("vit_b_32", ("class_token", "pos_embedding")),
        ("convnext_tiny", ("layer_scale",)),
        ("swin_t", ("relative_position_bias_table",)),
    ],
)
def test_what_is_a_matrix_by_its_shape_only_is_not_decayed(
    backbone: str, undecayed: tuple[str, ...]
) -> None:
    """Positions and layer scales multiply no input: pulled towards zero they only get lost."""
    model = build_model(CnnConfig(backbone=backbone), (64, 64, 3), 2)
    config = TrainConfig(optimizer="adamw", weight_decay=0.1)
    (built,) = build_optimizers(model, config)
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


def test_the_moving_average_starts_fast_and_counts_buffers() -> None:
    """Early weights must not linger, and BatchNorm's statistics are part of the model."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = MovingAverage(model, decay=0.999)
    with torch.no_grad():
        for tensor in (model[0].weight, model[1].running_mean):
            tensor.fill_(5.0)
    for _ in range(100):
        average.update()

    assert (average.model[0].weight - 5).abs().max() < 0.01
    assert (average.model[1].running_mean - 5).abs().max() < 0.01


@pytest.mark.parametrize("parts", [2, 4, 7])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(parts: int, tmp_path: Path) -> None:
    """What does not fit into memory at once is still the same step; parts need not be equal.

    One step, in float64: many steps in float32 amplify the rounding of two orders of the same sums. What
    is left are sums of some thousand terms, each rounded to 1e-16 of the largest.
    """
    extra = ["preprocess.augment=none", "train.epochs=1", "train.optimizer=sgd"]
    # An architecture without BatchNorm, which sees the parts.
    extra += ["transformer.model.tokens=patches", "train.batch_size=66", "train.ema_decay=0.0"]
    extra += ["train.max_grad_norm=0", "train.precision=fp32"]
    spec = job_for("transformer", tmp_path, *extra)
    whole, divided = gradients_of_a_step(spec), gradients_of_a_step(replace(spec, accumulate=parts))

    assert spec.key == replace(spec, accumulate=parts).key
    torch.testing.assert_close(divided, whole, rtol=1e-9, atol=1e-12)


def gradients_of_a_step(spec: FitSpec) -> torch.Tensor:
    """Of all parameters together, in float64: what is left of the weights after a step of rate 1."""
    learner = build_learner(spec, CPU, Shard())
    learner.model.double()
    learner.recipe.register_forward_hook(lambda _, __, inputs: inputs.double())
    learner.loss_fn.register_forward_pre_hook(lambda _, given: (given[0].double(), given[1]))
    found: list[torch.Tensor] = []
    learner.optimizers[0].register_step_pre_hook(
        lambda *_: found.append(
            torch.cat([p.grad.flatten().clone() for p in learner.model.parameters()])
        )
    )
    store = open_store(spec.store)
    rows = make_splits(store, spec.data).train[: spec.train.batch_size]
    batches = training_batches(
        Pictures(store, CPU),
        rows,
        batch_size=spec.train.batch_size,
        seed=0,
        epoch=0,
        shard=Shard(),
    )
    train_epoch(learner, batches, lambda _: None)
    return found[0]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 500))
def test_all_workers_compute_a_batch_in_as_many_parts_of_two_pictures_at_least(
    accumulate: int, world_size: int, batch_size: int
) -> None:
    """Else reductions of different steps would pair up; and of one picture there is no variance."""
    batch_size = max(batch_size, 2 * world_size)
    spec = replace(BARE_JOB, accumulate=accumulate)
    spec = replace(spec, train=spec.train.model_copy(update={"batch_size": batch_size}))
    parts = spec.parts(world_size)
    shares = [len(range(rank, batch_size, world_size)) for rank in range(world_size)]

    for share in shares:
        sizes = [len(part) for part in torch.arange(share).tensor_split(parts)]
        assert len(sizes) == parts
        assert min(sizes) >= (2 if parts > 1 else 1)


def test_the_number_of_parts_grows_until_it_cannot() -> None:
    """A batch of 66 on two workers: 33 each, in 4 and then 16 parts; more there cannot be."""
    spec = replace(BARE_JOB, train=BARE_JOB.train.model_copy(update={"batch_size": 66}))
    grown = [in_more_parts(spec, 2, tries) for tries in (1, 2, 3)]

    assert [one and one.parts(2) for one in grown] == [4, 16, None]


def test_memory_that_runs_out_in_an_evaluation_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a batch would not."""
    learner = build_learner(job_for("ann", tmp_path), CPU, Shard())

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


def test_what_is_no_lack_of_memory_is_not_taken_for_one() -> None:
    """On a CPU only the message tells."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)

    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_the_state_that_got_furthest_is_found_and_broken_or_foreign_ones_are_passed_over(
    tmp_path: Path,
) -> None:
    """A killed process may leave half a state; another spec's weights would be worse than none."""
    spec = job_for("ann", tmp_path / "data")
    trained(spec, stop_after=1, folder=tmp_path / "a" / "epoch-1")
    trained(spec, stop_after=2, folder=tmp_path / "b" / "epoch-2")
    trained(spec, stop_after=3, folder=tmp_path / "b" / "epoch-3")
    tensors = tmp_path / "b" / "epoch-3" / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    other = replace(spec, seed=1)

    assert latest_state(tmp_path, spec.key) == tmp_path / "b" / "epoch-2"
    assert latest_state(tmp_path, other.key) is None
    assert latest_state(tmp_path / "nowhere", spec.key) is None


def test_states_that_vanish_while_they_are_looked_through_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run beside this one replaces its checkpoints all the time, in whatever moment."""
    kept = tmp_path / "ours"
    save_state(kept, {"spec": "key", "epochs_done": 1, "weight": torch.ones(3)})
    read_text, load_whole = Path.read_text, checkpoint.load_state
    vanished = []

    def vanish(folder: Path) -> None:
        if "other" in folder.name:
            shutil.rmtree(folder)
            vanished.append(folder)

    def read_late(self: Path, *args: Any, **settings: Any) -> str:
        if self.parent.name == "other-1":
            vanish(self.parent)
        return read_text(self, *args, **settings)

    def load_late(folder: Path) -> dict[str, Any]:
        if folder.name == "other-2":
            vanish(folder)
        return load_whole(folder)

    for name in ("other-1", "other-2"):
        save_state(tmp_path / name, {"spec": "key", "epochs_done": 9, "weight": torch.ones(3)})
    monkeypatch.setattr(Path, "read_text", read_late)
    monkeypatch.setattr(checkpoint, "load_state", load_late)

    assert latest_state(tmp_path, "key") == kept
    assert len(vanished) == 2


def test_a_state_comes_back_as_it_was_without_pickle(tmp_path: Path) -> None:
    """Keys that are numbers, None, tensors of any layout, two names for one memory."""
    shared = torch.rand(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    state: dict[str, Any] = {
        "a": {0: {"exp": shared, "n": 3}, 1: None},
        "b": [shared, 1.5, "x", True],
        "c": {},
    }
    save_state(tmp_path, state)
    back = load_state(tmp_path)

    assert torch.equal(back["a"][0]["exp"], shared)
    assert back["a"][0]["n"] == 3
    assert back["a"][1] is None
    assert back["b"][1:] == [1.5, "x", True]
    assert back["c"] == {}
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    with pytest.raises(TypeError, match="cannot hold"):
        save_state(tmp_path, {"x": object()})


def test_a_result_holds_the_best_weights_and_the_whole_history(tmp_path: Path) -> None:
    """It is all that the driver gets to see."""
    learner = trained(job_for("ann", tmp_path))
    save_state(tmp_path / "result", learner.result())
    state = load_state(tmp_path / "result")
    best = best_of(state)

    assert best is not None
    assert best.weights.keys() == learner.model.state_dict().keys()
    assert len(state["history"]) == 3


@pytest.mark.parametrize("setting", ["bf16", "fp32"])
def test_a_precision_that_is_set_is_obeyed(setting: Any) -> None:
    """`auto` may choose; the user may know better."""
    assert choose_arithmetic(setting, "ann", ["anything"]) == setting


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
    assert choose_arithmetic("auto", arch, kinds) == taken


def test_no_clock_has_a_part_in_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy moment decided it, once a storage: two clones on one machine came to other scores."""

    def refuse() -> float:
        raise AssertionError

    monkeypatch.setattr(time, "perf_counter", refuse)

    kind = device_kind(CPU)
    assert choose_arithmetic("auto", "cnn", [kind]) == choose_arithmetic("auto", "cnn", [kind])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("begun", ["bf16", "fp32"])
def test_what_was_begun_in_one_arithmetic_goes_on_in_it(begun: Any, tmp_path: Path) -> None:
    """Also on a machine whose kind would choose the other one."""
    spec = job_for("cnn", tmp_path)
    other = "fp32" if begun == "bf16" else "bf16"
    first = build_learner(replace(spec, arithmetic=begun), CPU, Shard())
    first.save(tmp_path / "state")
    second = build_learner(replace(spec, arithmetic=other), CPU, Shard())
    second.restore(tmp_path / "state")

    assert replace(spec, arithmetic=begun).key == replace(spec, arithmetic=other).key == spec.key
    assert str(second.precision) == begun


def test_training_in_bf16_learns_too(tmp_path: Path) -> None:
    """Half the bits, the same digits."""
    spec = job_for("cnn", tmp_path, "train.precision='bf16'", "train.epochs=15")
    learner = trained(spec)

    assert learner.best is not None
    assert learner.best.val.accuracy > 0.9
