"""The loss and what is done in it, and before it, for rare classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from imgrec.config import Imbalance
from imgrec.data.loader import balanced_order
from imgrec.evaluation.calibration import fit_temperature
from imgrec.training.loss import Loss, class_weights, log_priors, set_aside

COUNTS = (80, 15, 5)


counts_of_classes = st.lists(st.integers(1, 5000), min_size=2, max_size=30)


each = pytest.mark.parametrize(
    "imbalance", ["none", "weights", "sampler", "focal", "logit_adjustment"]
)


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(64, 3), torch.multinomial(torch.tensor([0.8, 0.15, 0.05]), 64, True)


@each
def test_labels_and_the_same_as_probabilities_have_the_same_loss(imbalance: Imbalance) -> None:
    """Mixed pictures have probabilities; an unmixed one among them must not count otherwise."""
    logits, labels = _batch()
    loss = Loss(imbalance, COUNTS, label_smoothing=0.1)

    torch.testing.assert_close(
        loss(logits, labels), loss(logits, F.one_hot(labels, 3).float()), atol=1e-6, rtol=1e-5
    )


@each
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(imbalance: Imbalance) -> None:
    """Several workers, or a batch in parts, must come to the gradient of the whole."""
    logits, labels = _batch()
    loss = Loss(imbalance, COUNTS, label_smoothing=0.0)
    parts = [loss(logits[rows], labels[rows]) for rows in (slice(0, 16), slice(16, 64))]

    torch.testing.assert_close(loss(logits, labels), 0.25 * parts[0] + 0.75 * parts[1])


@pytest.mark.parametrize("imbalance", ["none", "sampler"])
def test_without_a_change_it_is_cross_entropy(imbalance: Imbalance) -> None:
    """The sampler changes the batches, not the loss."""
    logits, labels = _batch()

    assert torch.equal(
        Loss(imbalance, COUNTS, 0.1)(logits, labels),
        F.cross_entropy(logits, labels, label_smoothing=0.1),
    )


@given(counts_of_classes)
def test_weights_lift_rare_classes_and_have_mean_one_over_the_pictures(counts: list[int]) -> None:
    """The learning rate keeps its meaning."""
    numbers = torch.tensor(counts)
    weights = class_weights(numbers)

    torch.testing.assert_close((weights * numbers).sum() / numbers.sum(), torch.tensor(1.0))
    order = numbers.argsort()
    assert (weights[order].diff() <= 1e-6).all()


def test_weights_are_those_of_the_paper() -> None:
    """Two classes by hand: effective numbers 1 and 1.9 at beta 0.9."""
    weights = class_weights(torch.tensor([1, 2]), beta=0.9)

    assert weights[0] / weights[1] == pytest.approx(1.9)


def test_weights_do_not_fade_where_classes_are_large() -> None:
    """With a fixed beta of 0.999 these three would weigh the same."""
    weights = class_weights(torch.tensor([500_000, 50_000, 5_000]))

    assert weights[2] / weights[0] > 8


def test_a_class_without_pictures_has_no_weight_and_no_infinite_margin() -> None:
    """It can happen where the source brings its own splits."""
    numbers = torch.tensor([10, 0])

    assert class_weights(numbers)[1] == 0
    assert log_priors(numbers).isfinite().all()


def test_focal_looks_away_from_what_is_recognized() -> None:
    """By (1 - p) squared, as in the paper."""
    logits, labels = torch.tensor([[3.0, 0.0]]), torch.tensor([0])
    share = logits.softmax(1)[0, 0]

    torch.testing.assert_close(
        Loss("focal", (5, 5), 0.0)(logits, labels), -((1 - share) ** 2) * share.log()
    )


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_logit_adjustment_ends_where_all_classes_count_alike(label_smoothing: float) -> None:
    """Pictures that say nothing: what is learned is not that most are of class 0, but nothing.

    Smoothing that is spread evenly would make it the rare class, everywhere: on long-tailed
    CIFAR-10 that cost six points.
    """
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    logits = torch.zeros(3, requires_grad=True)
    loss = Loss("logit_adjustment", COUNTS, label_smoothing)
    optimizer = torch.optim.LBFGS([logits], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(logits.expand(100, -1), labels)
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(logits.softmax(0), torch.full((3,), 1 / 3), atol=1e-3, rtol=0)


def world(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A number for each picture (N, 1), and its class: 5 % are rare, and their numbers two higher."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(count, generator=generator) < 0.05).long()
    numbers = torch.randn(count, generator=generator) + 2.0 * labels - 1.0
    return numbers[:, None], labels


@each
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_probabilities_are_those_of_the_data_whatever_is_done_for_rare_classes(
    imbalance: Imbalance, label_smoothing: float
) -> None:
    """A model that says 0.23 on average of a class of 5 % cannot be asked how sure it is.

    A linear model, which can be perfect in this world, trained to the end. Of 1,000 rare pictures in 20,000
    the share is known to 3 %; three times that is allowed. Smoothing and focal bend the logits of single
    pictures, which a temperature mends on the whole only.
    """
    numbers, labels = world(20_000, seed=0)
    counts = tuple(torch.bincount(labels).tolist())
    rows = np.arange(len(labels))
    if imbalance == "sampler":
        rows = balanced_order(rows, labels.numpy(), np.random.default_rng(0))
    model = torch.nn.Linear(1, 2)
    loss = Loss(imbalance, counts, label_smoothing)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(model(numbers[rows]), labels[rows])
        value.backward()
        return value

    optimizer.step(step)
    priors = set_aside(imbalance, counts)
    with torch.no_grad():
        temperature = fit_temperature(model(numbers), labels, priors)
        new, true = world(200_000, seed=1)
        logits = model(new) / temperature + (0 if priors is None else priors)
    said = logits.softmax(dim=1)[:, 1]
    right = torch.sigmoid(2.0 * new[:, 0] + np.log(0.05 / 0.95))

    # Even smoothing asks for more of a rare class than it has, by a share of itself.
    assert float(said.mean()) == pytest.approx(0.05, rel=0.1 + 2 * label_smoothing)
    assert float(true[said > 0.8].double().mean()) > 0.7
    if not label_smoothing and imbalance != "focal":
        assert float((said - right).abs().mean()) < 0.005
