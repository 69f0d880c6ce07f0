"""Everything that changes while a model is trained, and how to save and restore it."""

import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from imgrec.data.loader import Shard
from imgrec.data.splits import Indices, Splits, make_splits
from imgrec.data.store import Store, open_store
from imgrec.models import build_model
from imgrec.models.build import keep_fp32, lay_out
from imgrec.models.convolution import Whiten
from imgrec.models.network import Network
from imgrec.preprocess.recipe import Recipe
from imgrec.training.checkpoint import load_state, save_state
from imgrec.training.clock import Clock
from imgrec.training.ema import MovingAverage
from imgrec.training.graphs import Graphs, refuse_graphs
from imgrec.training.loss import Loss
from imgrec.training.metrics import Rank, Scores
from imgrec.training.optim import Together, build_optimizers, build_schedules, match_layout
from imgrec.training.precision import Precision, choose_arithmetic, device_kind
from imgrec.training.spec import FitSpec
from imgrec.training.throughput import gpu_bytes, gpu_name, reset_gpu_bytes

MOST_TO_WHITEN = 2048
PIXELS_TO_WHITEN = 1 << 21


@dataclass(frozen=True, slots=True)
class Best:
    """The best epoch so far: its scores, and the weights that had them."""

    epoch: int
    val: Scores
    weights: dict[str, Tensor]


@dataclass
class Learner:
    """A model in training, with its data. Built by `build_learner`, moved by `loop.fit`."""

    spec: FitSpec
    store: Store
    splits: Splits
    shard: Shard
    device: torch.device
    precision: Precision
    model: Network
    parallel: nn.Module  # the model itself, or DDP around it when there are several workers
    recipe: Recipe
    loss_fn: nn.Module
    optimizers: list[Optimizer]
    schedules: list[LambdaLR]
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    clock: Clock
    graphs: Graphs | None
    epochs_done: int = 0
    best: Best | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def evaluated(self) -> nn.Module:
        """The model whose scores count: the moving average if there is one."""
        return self.average.model if self.average else self.model

    def without_reducing(self) -> AbstractContextManager[None]:
        """What is computed inside adds to this worker's gradients alone."""
        if isinstance(self.parallel, DistributedDataParallel):
            return self.parallel.no_sync()
        return nullcontext()

    def add_gradients(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Add to the gradients what these pictures say.

        Args:
            inputs: (B, C, H, W), a part of this worker's share of a batch.
            targets: (B,) labels or (B, K) probabilities.

        Returns:
            Logits (B, K) and the mean loss (), detached.
        """
        with self.precision.autocast():
            logits = self.parallel(inputs)
        # The loss is not computed in bf16.
        loss = self.loss_fn(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)
        # DDP takes the mean over workers, whose shares differ when they do not divide the batch.
        share = len(targets) * (self.shard.world_size / self.spec.train.batch_size)
        self.scaler.scale(loss * share).backward()
        return logits.detach(), loss.detach()

    def step(self) -> None:
        """A step of the optimizers along the gradients, which are gone then."""
        together = Together(self.optimizers)
        if self.spec.train.max_grad_norm:
            self.scaler.unscale_(together)  # type: ignore[arg-type]
            nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.train.max_grad_norm)
        self.scaler.step(together)  # type: ignore[arg-type]
        self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def whole_step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Both, of a whole batch: what a graph replays. Nothing in it may hang on a number of the CPU that changes."""
        outputs = self.add_gradients(inputs, targets)
        self.step()
        return outputs

    def share_buffers(self) -> None:
        """Give all workers the mean of their BatchNorm statistics; each saw other pictures."""
        if not dist.is_initialized():
            return
        for model in dict.fromkeys((self.model, self.evaluated)):  # the same order on all
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    for buffer in layer.buffers():
                        if buffer.is_floating_point():
                            dist.all_reduce(buffer)
                            buffer.div_(self.shard.world_size)

    def keep_if_best(self, val: Scores) -> bool:
        """Remember the evaluated weights if no epoch before was as good.

        What is better says `Rank`.
        """

        def rank(epoch: int, scores: Scores) -> Rank:
            return Rank(self.spec.share_after(epoch), scores.macro_f1, -scores.loss)

        better = self.best is None or (
            rank(self.epochs_done, val) > rank(self.best.epoch, self.best.val)
        )
        if better:
            weights = {k: v.detach().clone() for k, v in self.evaluated.state_dict().items()}
            self.best = Best(self.epochs_done, val, weights)
        return better

    def begin_anew(self) -> None:
        """After the weights were set from outside: their average is themselves."""
        if self.average:
            self.average.model.load_state_dict(self.model.state_dict())

    def save(self, folder: Path) -> None:
        """Write all that training needs to go on, and the best weights with their scores.

        The random numbers need no state: every epoch seeds its own streams from
        (seed, epoch, rank), which also holds when the number of workers changes.
        """
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [_plain(schedule.state_dict()) for schedule in self.schedules],
            "scaler": self.scaler.state_dict(),
            "average": self.average and self.average.model.state_dict(),
            "average_steps": self.average and self.average.steps,
            **self.result(),
        }
        save_state(folder, state)

    def save_in(self, folder: Path) -> None:
        """Write a checkpoint into a folder of its own there, then remove those of earlier epochs: one is whole at any time."""
        checkpoint = folder / f"epoch-{self.epochs_done}"
        self.save(checkpoint)
        for other in folder.glob("epoch-*"):
            if other != checkpoint:
                shutil.rmtree(other, ignore_errors=True)

    def result(self) -> dict[str, Any]:
        """What counts in the end: the best weights with their scores, and the metrics by epoch."""
        best = self.best and {
            "epoch": self.best.epoch,
            "val": asdict(self.best.val),
            "weights": self.best.weights,
        }
        return {
            "spec": self.spec.key,
            "probe_epochs": self.spec.probe_epochs,
            "epochs_done": self.epochs_done,
            "best": best,
            "history": self.history,
            "device": self.device.type,
            "gpu_name": gpu_name(self.device),
            "gpu_bytes": gpu_bytes(self.device),
            "precision": str(self.precision),
            "threads": torch.get_num_threads(),
        }

    def restore(self, folder: Path) -> None:
        """Continue from what `save` wrote, as if nothing had happened."""
        state = load_state(folder)
        assert state["spec"] == self.spec.key, "the checkpoint of another spec"
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            match_layout(optimizer)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        if self.average:
            self.average.model.load_state_dict(state["average"])
            self.average.steps = state["average_steps"]
        # What was begun in one arithmetic goes on in it, also on a machine that would choose another.
        self.precision = Precision(self.device, state["precision"])
        self.scaler = self.precision.scaler()
        self.scaler.load_state_dict(state["scaler"])
        self.epochs_done = state["epochs_done"]
        self.history = state["history"]
        self.best = best_of(state)


def best_of(state: dict[str, Any]) -> Best | None:
    """The best epoch in a state that `load_state` read."""
    best = state["best"]
    return best and Best(best["epoch"], Scores(**best["val"]), best["weights"])


def build_learner(spec: FitSpec, device: torch.device, shard: Shard) -> Learner:
    """A learner with fresh weights, the same on every worker.

    Raises:
        ConfigError: the architecture cannot be built as asked, or not be trained so.
    """
    keep_fp32()
    torch.manual_seed(spec.seed)
    reset_gpu_bytes(device)
    store = open_store(spec.store)
    splits = make_splits(store, spec.data)
    recipe = spec.make_recipe().to(device)
    model = build_model(spec.model, spec.image_shape, spec.num_classes, spec.weights_file())
    model = lay_out(model).to(device)
    model.freeze(spec.train.freeze)
    for layer in model.modules():
        if isinstance(layer, Whiten) and not spec.weights:
            some = _some_pictures(store, splits.train, spec.seed)
            layer.fit_to(recipe.eval()(some.to(device)))
            if dist.is_initialized():
                # What one kind of machine computes, another may compute with the opposite sign.
                dist.broadcast(layer.weight, src=0)
    parallel: nn.Module = model
    if shard.world_size > 1:
        parallel = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,  # share_buffers does it once an epoch, and with the mean
            gradient_as_bucket_view=True,
        )
    optimizers = build_optimizers(model, spec.train)
    arithmetic = spec.arithmetic or choose_arithmetic(
        spec.train.precision, spec.model, [device_kind(device)]
    )
    precision = Precision(device, arithmetic)
    refuse_graphs(spec.train, device.type, arithmetic, shard.world_size)
    # Of a batch in parts each part is started kernel by kernel: it is as large as memory allows.
    captured = spec.train.cuda_graphs and spec.parts(shard.world_size) == 1
    return Learner(
        spec=spec,
        store=store,
        splits=splits,
        shard=shard,
        device=device,
        precision=precision,
        model=model,
        parallel=parallel,
        recipe=recipe,
        loss_fn=Loss(spec.train.imbalance, spec.class_counts, spec.train.label_smoothing).to(
            device
        ),
        optimizers=optimizers,
        schedules=build_schedules(optimizers, spec.train, spec.total_steps),
        scaler=precision.scaler(),
        average=MovingAverage(model, spec.train.ema_decay) if spec.train.ema_decay else None,
        clock=Clock(device),
        graphs=Graphs(device, optimizers) if captured else None,
    )


def _some_pictures(store: Store, rows: Indices, seed: int) -> Tensor:
    """Pictures drawn from the rows by the seed, (N, C, H, W) uint8; fewer where they are large."""
    height, width, _ = store.image_shape
    count = max(64, min(MOST_TO_WHITEN, PIXELS_TO_WHITEN // (height * width)))
    chosen = np.random.default_rng(seed).permutation(rows)[:count]
    return torch.from_numpy(store.images[chosen]).permute(0, 3, 1, 2)


def _plain(schedule_state: dict[str, Any]) -> dict[str, Any]:
    # The function of the steps is made anew from the settings; only its place is saved.
    return schedule_state | {"lr_lambdas": [None] * len(schedule_state["lr_lambdas"])}
