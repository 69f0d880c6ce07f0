"""The first epoch of a network that begins with pretrained weights: a linear layer on its frozen features.

The features of all pictures are computed once, as evaluation sees them, and kept beside the store, where other
seeds, trials and the final scores find them. On them the last layer is a logistic regression, solved to its
minimum. How strongly its weights are held small is chosen by cross-validation within the training split, so that
the validation split chooses nothing but the epoch that is kept.

Source: Alain & Bengio 2016, "Understanding intermediate layers using linear classifier probes"
(arXiv:1610.01644); Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution" (arXiv:2202.10054), on why fine-tuning should begin with it.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from numpy.lib.format import open_memmap
from torch import Tensor

from imgrec.data.decode import pictures_at_once
from imgrec.data.loader import Pictures, Shard, free_bytes
from imgrec.data.splits import Indices
from imgrec.data.store import Store
from imgrec.errors import disk_failure
from imgrec.machine import locked, take_room
from imgrec.models.network import Network
from imgrec.preprocess.recipe import Recipe
from imgrec.training.loss import Loss
from imgrec.training.precision import Precision
from imgrec.training.spec import FitSpec
from imgrec.version import fit_version

STRENGTHS = tuple(10.0 ** (-step / 4) for step in range(17))
"""Of the penalty on squared weights, from the strongest: each starts where the one before it ended."""
FOLDS = 5
MOST_CROSS_VALIDATED = 10_000
"""Of more pictures one fold is enough to tell strengths apart."""
MOST_LEARNED_FROM, MOST_LOGITS = 200_000, 50_000_000
"""Pictures, and those times classes: of more pictures some of each class are enough for a start, and all would take
more memory than a laptop has, or hours."""
EVALUATIONS = 900
"""Of the loss over all pictures, that choosing a strength with five folds and solving with it take (docs/log.md)."""
MOST_STEPS = 100
COPIES = 8
"""Times the features and logits that a GPU must have room for: as they are, standardized, for a fold, gradients."""
TIMED = 4096
"""Rows of features that an evaluation of the loss is timed with."""
LEAST_DEVIATION = 1e-3
"""Of a feature, as a share of the mean deviation of all."""
TINY = 1e-12
WAIT, COMPUTE, COMPUTED = 0, 1, 2
WAIT_SECONDS = 2.0
Advance = Callable[[int], None]
Features = np.memmap[tuple[int, ...], np.dtype[np.float32]]


def nothing_is_told() -> None:
    """For whoever does not want to know how far it is."""


def features_file(spec: FitSpec, arithmetic: str) -> Path:
    """Where the features of a store's pictures are kept: beside them, for this network, view and arithmetic."""
    assert spec.weights
    content = {
        "weights": spec.weights.sha256,
        "network": spec.model.backbone,
        "view": asdict(spec.view),
        "statistics": asdict(spec.statistics),
        "filters": [one.model_dump(mode="json") for one in spec.filters],
        "arithmetic": arithmetic,
        "code": fit_version(),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return spec.store / f"features-{key}.npy"


def all_features(
    spec: FitSpec,
    network: Network,
    recipe: Recipe,
    pictures: Pictures,
    store: Store,
    precision: Precision,
    shard: Shard,
    advance: Advance,
) -> Features:
    """The features of every picture of a store, (N, F) float32; computed where nobody has yet.

    Several workers divide them, and come here together. Of several processes that want the same (trials), one
    computes while the others wait.

    Args:
        spec: Names the weights, and how pictures are seen.
        network: In training or not, its last layer whatever it is.
        recipe: The spec's.
        pictures: The store's, on the device.
        store: Whose.
        precision: Of the device.
        shard: This worker among all.
        advance: Told how many pictures are done.
    """
    file = features_file(spec, precision.arithmetic)
    with _turn(file, shard) as there:
        if not there:
            rows = np.arange(len(store.labels))
            parts = [
                file.with_suffix(f".{rank}-of-{shard.world_size}")
                for rank in range(shard.world_size)
            ]
            own = rows[shard.rank :: shard.world_size]
            _write(parts[shard.rank], network, recipe, pictures, own, precision, advance)
            _wait(shard)
            if shard.rank == 0:
                _merge(parts, len(rows), file)
                for left in file.parent.glob(f"{file.stem}.*-of-*"):
                    left.unlink()  # of a process that was killed
    _wait(shard)
    features: Features = np.load(file, mmap_mode="r")
    return features


def kept_features(spec: FitSpec, arithmetic: str) -> Features | None:
    """The features of every picture of a store, (N, F) float32; None where nobody has computed them here."""
    file = features_file(spec, arithmetic)
    if not file.exists():
        return None
    features: Features = np.load(file, mmap_mode="r")
    return features


@torch.inference_mode()
def known_logits(
    spec: FitSpec, arithmetic: str, network: Network, rows: npt.NDArray[np.int64]
) -> Tensor | None:
    """Logits (n, K) of a network's last layer on features that are kept; None where they are not."""
    features = kept_features(spec, arithmetic)
    if features is None:
        return None
    some = torch.from_numpy(features[rows]).to(network.last_layer.weight.device)
    return network.classify(some).cpu()


@torch.inference_mode()
def _write(
    part: Path,
    network: Network,
    recipe: Recipe,
    pictures: Pictures,
    rows: npt.NDArray[np.int64],
    precision: Precision,
    advance: Advance,
) -> None:
    """The features of some pictures (n, F) float32, to a file of its own."""
    network.eval()
    recipe.eval()
    shape = (len(rows), network.last_layer.in_features)
    features = _new_features(part, shape)
    at_once = pictures_at_once(recipe.larger_of(pictures.image_shape))
    for start in range(0, len(rows), at_once):
        images, _ = pictures.take(rows[start : start + at_once])
        with precision.without_scaler().autocast():
            seen = network.features(recipe(images))
        features[start : start + at_once] = seen.float().cpu().numpy()
        advance(min(len(rows), start + at_once))
    features.flush()


def _new_features(file: Path, shape: tuple[int, int]) -> Features:
    """A file for features, mapped, with its room on the disk taken: a full disk would kill who writes to the map.

    Raises:
        StorageError: there is no room.
    """
    try:
        features: Features = open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        with file.open("r+b") as opened:
            take_room(opened.fileno(), file.stat().st_size)
    except OSError as error:
        file.unlink(missing_ok=True)
        failure = disk_failure(error)
        if failure is None:
            raise
        raise failure from error
    return features


def _merge(parts: Sequence[Path], count: int, file: Path) -> None:
    """The parts, of which each holds every len(parts)-th row, as one file."""
    if len(parts) > 1:
        opened = [np.load(part, mmap_mode="r") for part in parts]
        whole = parts[0].with_suffix(".part")
        features = _new_features(whole, (count, opened[0].shape[1]))
        for rank, one in enumerate(opened):
            features[rank :: len(parts)] = one
        features.flush()
        for part in parts:
            part.unlink()
    else:
        (whole,) = parts
    whole.replace(file)


@contextmanager
def _turn(file: Path, shard: Shard) -> Iterator[bool]:
    """Hold the lock of a file of features; whether somebody has computed it.

    Rank 0 takes the lock for all, and tells them every few seconds how it stands: whoever waited for it in a
    reduction would be given up after half an hour.
    """
    while True:
        with ExitStack() as stack:
            state = [WAIT]
            if shard.rank == 0:
                held = stack.enter_context(locked(file.with_suffix(".lock"), wait=False))
                state = [WAIT if not held else COMPUTED if file.exists() else COMPUTE]
            if shard.world_size > 1:
                dist.broadcast_object_list(state, src=0)
            if state[0] != WAIT:
                yield state[0] == COMPUTED
                return
        time.sleep(WAIT_SECONDS)


def _wait(shard: Shard) -> None:
    if shard.world_size > 1:
        dist.barrier()


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear layer on features.

    Attributes:
        weight: (K, F) float32.
        bias: (K,) float32; zeros of a layer that has none.
        strength: Of the penalty that was chosen.
    """

    weight: Tensor
    bias: Tensor
    strength: float

    def put_into(self, network: Network) -> None:
        """Let a network's last layer be this one."""
        layer = network.last_layer
        with torch.no_grad():
            layer.weight.copy_(self.weight / network.logit_scale)
            if layer.bias is not None:
                layer.bias.copy_(self.bias / network.logit_scale)


def learned_from(rows: Indices, labels: npt.NDArray[np.int64], seed: int) -> Indices:
    """The rows that a probe learns from: all, or of very many the same share of each class, drawn by the seed.

    Args:
        rows: Of the training split, (N,).
        labels: Their classes, (N,).
        seed: Of the draw.
    """
    counts = np.bincount(labels)
    most = _most_learned_from(len(counts))
    if len(rows) <= most:
        return rows
    order = np.random.default_rng([seed, MOST_LEARNED_FROM]).permutation(len(rows))
    order = order[np.argsort(labels[order], kind="stable")]  # by class, in random order
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # in its class
    kept = place * len(rows) < np.repeat(counts, counts) * most
    chosen: Indices = np.sort(rows[order[kept]])
    return chosen


def _most_learned_from(classes: int) -> int:
    return min(MOST_LEARNED_FROM, MOST_LOGITS // max(1, classes))


def solving_seconds(spec: FitSpec, width: int, device: torch.device) -> float:
    """How long `solve` takes for a spec, about: from one evaluation of the loss, on features that are zero.

    Args:
        spec: Of the fit.
        width: F.
        device: Where it is trained.
    """
    count = min(spec.num_train, _most_learned_from(spec.num_classes))
    some = torch.zeros(min(count, TIMED), width, device=device)
    labels = torch.zeros(len(some), dtype=torch.int64, device=device)
    loss_fn = Loss("none", spec.class_counts, 0.0).to(device)
    regression = _Regression(some, labels, loss_fn, biased=True)
    for _ in range(2):
        started = time.perf_counter()
        float(regression.loss(STRENGTHS[0]))  # waits for a GPU, as the solver does
        seconds = time.perf_counter() - started
    return EVALUATIONS * seconds * count / len(some)


def solve(
    inputs: Tensor,
    labels: Tensor,
    loss_fn: Loss,
    seed: int,
    device: torch.device,
    *,
    biased: bool,
    on_evaluation: Callable[[], None] = nothing_is_told,
) -> Probe:
    """`fit_probe` on a GPU, if there is room for what it takes, and else here."""
    how: dict[str, Any] = {"biased": biased, "on_evaluation": on_evaluation}
    if device.type == "cuda" and _bytes_of(inputs, loss_fn.num_classes) <= free_bytes(device):
        try:
            there = inputs.to(device), labels.to(device), copy.deepcopy(loss_fn).to(device)
            return fit_probe(*there, seed, **how)
        except torch.OutOfMemoryError:
            pass  # others took it meanwhile
    return fit_probe(inputs, labels, loss_fn, seed, **how)


def _bytes_of(features: Tensor, classes: int) -> int:
    """That solving takes: copies of the features, and of the logits with their gradients."""
    return COPIES * (features.nbytes + len(features) * classes * features.element_size())


def fit_probe(
    features: Tensor,
    labels: Tensor,
    loss_fn: Loss,
    seed: int,
    *,
    biased: bool = True,
    on_evaluation: Callable[[], None] = nothing_is_told,
) -> Probe:
    """The last layer that is best on frozen features.

    Features are standardized; the mean loss plus strength / 2 times the squared weights is minimized by L-BFGS
    (Liu & Nocedal 1989). The strength is the one with the lowest loss over held out folds.

    Args:
        features: Of the training split, (N, F) float32, on the device that solves it.
        labels: (N,) int64, there too.
        loss_fn: Without label smoothing, there too.
        seed: Of the folds.
        biased: Whether the layer adds a number of its own for each class. Without, features are only scaled, for
            to centre them is to add one.
        on_evaluation: Called after each evaluation of the loss, of which there are about EVALUATIONS.
    """
    mean, std = features.mean(dim=0), features.std(dim=0)
    if not biased:
        mean = torch.zeros_like(mean)
    # A feature that these pictures do not have would be nothing but its rounding, enlarged.
    std = std.clamp(min=LEAST_DEVIATION * float(std.mean()) + TINY)
    inputs = (features - mean) / std
    regression = partial(_Regression, loss_fn=loss_fn, biased=biased, on_evaluation=on_evaluation)
    strength, near = _choose_strength(inputs, labels, seed, regression)
    layer = regression(inputs, labels)
    layer.begin_at(near)
    layer.solve(strength)
    weight = layer.weight.detach() / std
    return Probe(weight.cpu(), (layer.bias.detach() - weight @ mean).cpu(), strength)


def held_out_probabilities(features: Tensor, labels: Tensor, num_classes: int, seed: int) -> Tensor:
    """What a linear layer says of each picture that it has not learned from, (N, K): of five, each learns from four fifths.

    Args:
        features: Of the training split, (N, F) float32.
        labels: (N,) int64.
        num_classes: K.
        seed: Of the folds.
    """
    loss_fn = Loss("none", (1,) * num_classes, 0.0)
    mean, std = features.mean(dim=0), features.std(dim=0)
    std = std.clamp(min=LEAST_DEVIATION * float(std.mean()) + TINY)
    inputs = (features - mean) / std
    regression = partial(_Regression, loss_fn=loss_fn, biased=True)
    strength, _ = _choose_strength(inputs, labels, seed, regression)
    folds = _folds(labels, seed)
    probabilities = torch.zeros(len(labels), num_classes)
    for fold in sorted(set(folds.tolist())):
        outside = folds == fold
        layer = regression(inputs[~outside], labels[~outside])
        layer.solve(strength, roughly=True)
        probabilities[outside] = layer.probabilities(inputs[outside])
    return probabilities


def _choose_strength(
    inputs: Tensor, labels: Tensor, seed: int, regression: "Callable[[Tensor, Tensor], _Regression]"
) -> tuple[float, "_Solution"]:
    """From the strongest on, until held out pictures are recognized worse again; and what a fold came to with it."""
    folds = _folds(labels, seed)
    # Of fewer than five pictures some folds are empty.
    held_out = range(min(FOLDS, len(labels)) if len(labels) <= MOST_CROSS_VALIDATED else 1)
    inside = {fold: regression(inputs[folds != fold], labels[folds != fold]) for fold in held_out}
    best, least, near = STRENGTHS[0], math.inf, inside[0].solution()
    for strength in STRENGTHS:
        total = 0.0
        for fold, layer in inside.items():
            layer.solve(strength, roughly=True)
            outside = folds == fold
            total += layer.loss_of(inputs[outside], labels[outside])
        if total > least:
            break
        best, least, near = strength, total, inside[0].solution()
    return best, near


def _folds(labels: Tensor, seed: int) -> Tensor:
    """Which fold each picture is held out in, (N,), evenly within every class."""
    rng = np.random.default_rng([seed, FOLDS])
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels.cpu().numpy()[order], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[by_class] = np.arange(len(labels)) % FOLDS
    return torch.from_numpy(folds).to(labels.device)


_Solution = tuple[Tensor, Tensor]
"""Weights (K, F) and biases (K,)."""


class _Regression:
    """A logistic regression; every solution begins at the one before it."""

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        loss_fn: Loss,
        *,
        biased: bool,
        on_evaluation: Callable[[], None] = nothing_is_told,
    ) -> None:
        classes, device = loss_fn.num_classes, inputs.device
        self.weight = torch.zeros(classes, inputs.shape[1], device=device, requires_grad=True)
        self.bias = torch.zeros(classes, device=device, requires_grad=biased)
        self._inputs, self._labels, self._loss_fn = inputs, labels, loss_fn
        self._on_evaluation = on_evaluation

    def solution(self) -> _Solution:
        """Where it stands."""
        return self.weight.detach().clone(), self.bias.detach().clone()

    @torch.no_grad()
    def begin_at(self, solution: _Solution) -> None:
        """Go on from there: the way to the minimum is shorter, and the minimum is the same."""
        weight, bias = solution
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def solve(self, strength: float, *, roughly: bool = False) -> None:
        """Go to the minimum, or near enough to it to tell strengths apart."""
        gradient, change = (1e-4, 1e-6) if roughly else (1e-5, 1e-7)
        solver = torch.optim.LBFGS(
            [one for one in (self.weight, self.bias) if one.requires_grad],
            max_iter=MOST_STEPS if roughly else 3 * MOST_STEPS,
            history_size=10,
            tolerance_grad=gradient,
            tolerance_change=change,
            line_search_fn="strong_wolfe",
        )

        def evaluated() -> Tensor:
            solver.zero_grad()
            return self.loss(strength)

        solver.step(evaluated)  # type: ignore[no-untyped-call]

    def loss(self, strength: float) -> Tensor:
        """Where it stands; its gradients are added to those of the weights."""
        logits = self._inputs @ self.weight.T + self.bias
        value = self._loss_fn(logits, self._labels) + strength / 2 * self.weight.square().sum()
        value.backward()
        self._on_evaluation()
        return value

    @torch.no_grad()
    def probabilities(self, inputs: Tensor) -> Tensor:
        """Of other pictures, (n, K)."""
        return torch.softmax(inputs @ self.weight.T + self.bias, dim=1)

    @torch.no_grad()
    def loss_of(self, inputs: Tensor, labels: Tensor) -> float:
        """The mean loss of other pictures."""
        return float(self._loss_fn(inputs @ self.weight.T + self.bias, labels))
