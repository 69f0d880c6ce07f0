"""The first epoch of a network that begins with pretrained weights."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from imgrec.config import load_config
from imgrec.data.loader import Pictures, Shard
from imgrec.machine import locked
from imgrec.training.learner import build_learner
from imgrec.training.loop import EpochReport, evaluate, fit
from imgrec.training.loss import Loss
from imgrec.training.probe import (
    STRENGTHS,
    _turn,
    features_file,
    fit_probe,
    known_logits,
    learned_from,
)
from imgrec.training.spec import FitSpec
from pipelines.prepare import prepare
from tests.conftest import no_progress
from tests.unit.training.made import CPU, trained, weights

COUNT, WIDTH, CLASSES = 120, 12, 3


def clouds(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of three classes that overlap, each feature on a scale of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(COUNT) % CLASSES
    middles = torch.randn(CLASSES, WIDTH, generator=generator)
    features = middles[labels] + 1.5 * torch.randn(COUNT, WIDTH, generator=generator)
    return features * torch.logspace(-1, 2, WIDTH) + 5.0, labels


def test_the_minimum_is_scikit_learns_for_the_same_penalty() -> None:
    """The mean loss with strength / 2 is the sum with C = 1 / (strength N), on standardized features."""
    features, labels = clouds()
    probe = fit_probe(features, labels, Loss("none", [40] * 3, 0.0), seed=0)
    mean, std = features.mean(0), features.std(0)
    theirs = LogisticRegression(C=1 / (probe.strength * COUNT), tol=1e-8, max_iter=10_000)
    theirs.fit(((features - mean) / std).numpy(), labels.numpy())
    inputs = (features - mean) / std

    def objective(weight: torch.Tensor, bias: torch.Tensor) -> float:
        loss = torch.nn.functional.cross_entropy(inputs @ weight.T + bias, labels)
        return float(loss + probe.strength / 2 * weight.square().sum())

    ours = objective(probe.weight * std, probe.bias + probe.weight @ mean)
    least = objective(
        torch.from_numpy(theirs.coef_).float(), torch.from_numpy(theirs.intercept_).float()
    )

    # We stop where a step gains less than 1e-7, a hundred of which are left at most; float32 has 6e-8 of a loss of 1.
    assert least - 1e-6 <= ours <= least + 1e-5


def test_the_strength_is_one_that_held_out_pictures_are_best_with() -> None:
    """Noise asks for a strong penalty, what separates cleanly for a weak one."""
    features, labels = clouds()
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    clean = torch.eye(CLASSES)[labels].repeat(1, 4) + 0.01 * noise
    loss_fn = Loss("none", [40] * 3, 0.0)

    assert (
        fit_probe(noise, labels, loss_fn, 0).strength
        > 10 * fit_probe(clean, labels, loss_fn, 0).strength
    )


def test_of_very_many_pictures_it_learns_from_the_same_share_of_each_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A million are more than a laptop has memory for; none of a rare class is lost for that."""
    monkeypatch.setattr("imgrec.training.probe.MOST_LEARNED_FROM", 100)
    labels = np.repeat(np.arange(3), [900, 96, 4])
    rows = np.arange(5000, 6000)
    chosen = learned_from(rows, labels, seed=0)
    counts = np.bincount(labels[chosen - 5000])

    assert counts.tolist() == [90, 10, 1]
    assert len(set(chosen.tolist())) == len(chosen)
    assert np.array_equal(chosen, learned_from(rows, labels, seed=0))
    assert not np.array_equal(chosen, learned_from(rows, labels, seed=1))
    assert np.array_equal(learned_from(rows[:100], labels[:100], seed=0), rows[:100])


@pytest.mark.parametrize("count", [3, 4])
def test_of_very_few_pictures_the_penalty_is_not_the_weakest(count: int) -> None:
    """Some folds would be empty, and their loss no number."""
    features, labels = clouds()
    probe = fit_probe(features[:count], labels[:count], Loss("none", [2] * 3, 0.0), 0)

    assert probe.strength > STRENGTHS[-1]
    assert probe.weight.isfinite().all()


def test_features_that_no_picture_has_do_not_count() -> None:
    """Their rounding, which is another on every machine and for every number of workers, decides nothing."""
    features, labels = clouds()
    loss_fn = Loss("none", [40] * 3, 0.0)
    features[:, -1] = 0.5
    generator = torch.Generator().manual_seed(2)
    rounded = features.clone()
    rounded[:, -1] += 1e-6 * torch.randn(COUNT, generator=generator)
    one, other = (fit_probe(some, labels, loss_fn, 0) for some in (features, rounded))

    assert one.strength == other.strength
    torch.testing.assert_close(
        features @ one.weight.T + one.bias, rounded @ other.weight.T + other.bias, atol=0.02, rtol=0
    )


def test_who_finds_the_features_in_work_waits_for_them(tmp_path: Path) -> None:
    """Two trials want the same: one computes, the other finds them; a process that was killed holds nothing."""
    file = tmp_path / "features-0.npy"
    with locked(file.with_suffix(".lock")):
        finding = ThreadPoolExecutor(1).submit(_found_by, file)
        time.sleep(0.2)
        assert not finding.done()
        file.touch()

    assert finding.result(timeout=30)
    with _turn(tmp_path / "features-1.npy", Shard()) as there:
        assert not there


def _found_by(file: Path) -> bool:
    with _turn(file, Shard()) as there:
        return there


@pytest.fixture
def spec(make_large_photos: Callable[[], Path], tmp_path: Path) -> FitSpec:
    """Two epochs beside the first of EfficientNet-Lite0 on two dozen photos."""
    settings = [
        f"data.source='{make_large_photos()}'",
        f"storage='{tmp_path / 'mlruns'}'",
        "archs=['cnn']",
        "data.image_size=64",
        "cnn.train.epochs=3",
        "cnn.train.batch_size=8",
        "train.precision='fp32'",
    ]
    return prepare(load_config(None, settings), no_progress).specs["cnn"]


def test_the_first_epoch_recognizes_photos_and_says_what_evaluation_says(spec: FitSpec) -> None:
    """Scores from features that are kept are those of the whole network."""
    learner = build_learner(spec, CPU, Shard())
    reports: list[EpochReport] = []

    class OverError(Exception):
        pass

    def on_epoch(report: EpochReport) -> None:
        reports.append(report)
        raise OverError

    with pytest.raises(OverError):
        fit(learner, on_epoch=on_epoch)
    pictures = Pictures(learner.store, CPU)
    whole = evaluate(learner, pictures, learner.splits.choosing)
    known = known_logits(spec, "fp32", learner.model, learner.splits.choosing)

    assert spec.weights is not None
    assert reports[0].metrics["val/accuracy"] == whole.accuracy
    assert reports[0].metrics["val/loss"] == pytest.approx(whole.loss, rel=1e-4)
    assert reports[0].metrics["train/accuracy"] > 0.9
    assert reports[0].metrics["learning_rate"] == 0
    assert known is not None
    assert known.shape == (len(learner.splits.choosing), 2)


def test_features_are_computed_once_for_all_seeds(spec: FitSpec) -> None:
    """Trials and seeds find them; other statistics are other features."""
    trained(spec, stop_after=1, folder=spec.store.parent / "checkpoint")
    file = features_file(spec, "fp32")
    written = file.stat().st_mtime_ns
    other = replace(spec, seed=1, train=spec.train.model_copy(update={"epochs": 1}))
    learner = trained(other)

    assert file.stat().st_mtime_ns == written
    assert learner.best is not None
    assert learner.best.epoch == 1
    assert features_file(replace(spec, filters=()), "bf16") != file


def test_a_fit_that_is_broken_off_after_the_first_epoch_ends_with_the_same_weights(
    spec: FitSpec, tmp_path: Path
) -> None:
    """Bit for bit, as of every other epoch."""
    whole = trained(spec)
    resumed = trained(spec, stop_after=1, folder=tmp_path / "checkpoint")

    assert torch.equal(weights(whole), weights(resumed))


def test_what_fine_tuning_spoils_is_not_kept(spec: FitSpec) -> None:
    """At a rate that destroys the network the first epoch is the best."""
    wild = spec.train.model_copy(update={"learning_rate": 1.0, "weight_decay": 0.5})
    learner = trained(replace(spec, train=wild))

    assert learner.best is not None
    assert learner.best.epoch == 1
    assert learner.epochs_done == 3


def test_frozen_layers_keep_their_weights_and_the_deeper_ones_learn_faster(spec: FitSpec) -> None:
    """`freeze` from the first layer on, `layer_decay` from the last one back."""
    train = spec.train.model_copy(update={"freeze": 0.5, "layer_decay": 0.1})
    chosen = replace(spec, train=train)
    fresh, done = build_learner(chosen, CPU, Shard()), trained(chosen)
    before, after = fresh.model.state_dict(), done.model.state_dict()
    rates = [group["lr"] for group in fresh.optimizers[0].param_groups]
    base = [group["initial_lr"] for group in fresh.optimizers[0].param_groups]

    assert torch.equal(before["network.conv_stem.weight"], after["network.conv_stem.weight"])
    assert not torch.equal(before["network.conv_head.weight"], after["network.conv_head.weight"])
    assert max(base) == pytest.approx(train.learning_rate)
    assert max(base) * 0.1**0.5 <= min(base) < max(base)
    assert len(rates) > 4


def test_the_first_epoch_tells_how_far_it_is(spec: FitSpec) -> None:
    """Features are two thirds of what is told, and solving goes on from there: of many classes it takes minutes."""
    small = replace(spec, train=spec.train.model_copy(update={"batch_size": 2}))
    learner = build_learner(small, CPU, Shard())
    told: list[int] = []
    on_step = lambda epoch, step: told.append(step) if epoch == 1 else None  # noqa: E731
    fit(learner, on_epoch=lambda _: None, on_step=on_step)
    features = small.steps_per_epoch * 2 // 3

    assert told == sorted(told)
    assert (
        told.count(features) > 5
    )  # it is told after each evaluation of the loss, of which so few pictures need few
    assert told[-1] <= small.steps_per_epoch
