"""How training scales: measured here with 1, 2 and 4 workers, simulated for 8 to 512 GPUs.

    python -m tests.bench.scaling --out FOLDER

On every machine it measures what it can: the time of a step of the cnn by the size of its batch, how
much the times of one step differ, and what gloo takes for an all-reduce. From these it predicts what
two workers do, and measures that too: so far the model of a step can be trusted. For GPUs it
counts the operations of a step, and takes what a card and a network can do from their makers' figures
(GPU, FABRIC below), or on a machine with a card what that card does. Everything is in seconds and bytes.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from matplotlib.figure import Figure
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from imgrec.config import load_config
from imgrec.data.loader import Shard, TrainingBatch
from imgrec.evaluation.pictures import ACCENT, INK, MUTED
from imgrec.training.learner import Learner, build_learner
from imgrec.training.loop import train_epoch
from imgrec.training.spec import FitSpec
from pipelines.prepare import prepare
from tests.bench.test_loop import noise_folder
from tests.conftest import no_progress

SIZES = (1, 4, 16, 64, 128, 256)
WORKERS = (1, 2, 4)
BATCH = 256
ROUNDS = 5
MESSAGES = (1 << 12, 1 << 16, 1 << 20, 1 << 23, 1 << 25)
BUCKET_BYTES = 25 << 20  # of DistributedDataParallel
BACKWARD = 2 / 3  # of the time of forward and backward
DRAWS = 300


@dataclass(frozen=True)
class Step:
    """What a step takes: `fixed + per_image * batch`, times a draw of `jitter`."""

    fixed: float
    per_image: float
    jitter: tuple[float, ...]

    def seconds(self, batch: float) -> float:
        """Without jitter."""
        return self.fixed + self.per_image * batch


@dataclass(frozen=True)
class Link:
    """What moves gradients: seconds before the first byte, and bytes a second."""

    latency: float
    bandwidth: float

    def all_reduce(self, size: float, members: int) -> float:
        """The faster of a ring and of a tree, which wait for more or for fewer messages."""
        if members == 1:
            return 0.0
        ring = 2 * (members - 1) * (self.latency + size / members / self.bandwidth)
        tree = 2 * math.log2(members) * self.latency + 2 * size / self.bandwidth
        return min(ring, tree)


@dataclass(frozen=True)
class Fabric:
    """Links within a machine, and between machines."""

    inner: Link
    outer: Link
    per_machine: int

    def all_reduce(self, size: float, members: int) -> float:
        """Within each machine, then between them, each card with its share."""
        within = min(members, self.per_machine)
        machines = math.ceil(members / self.per_machine)
        return self.inner.all_reduce(size, within) + self.outer.all_reduce(size / within, machines)


# NVIDIA's data sheets: H100 SXM 989 TFLOP/s dense in bf16, NVLink 4 450 GB/s in a direction, and
# ConnectX-7 400 Gb/s a card. A small convolution reaches a part of the peak; 0.25 is assumed. The
# latencies are NCCL's order of magnitude for one hop.
PEAK, SHARE_OF_PEAK = 989e12, 0.25
LAUNCH = 6e-6  # assumed: PyTorch's way to a kernel, eagerly
FABRIC = Fabric(Link(5e-6, 450e9), Link(15e-6, 50e9), per_machine=8)


def simulate(
    step: Step,
    network: Fabric | Link,
    gradient_bytes: int,
    batch: int,
    workers: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Mean seconds of a step, and what they go to.

    Each worker draws its own jitter. A bucket of gradients is reduced when the slowest worker has it
    and the bucket before is through; DDP does so while the backward pass goes on.
    """
    share = math.ceil(batch / workers)
    buckets = max(1, math.ceil(gradient_bytes / BUCKET_BYTES))
    reduce = network.all_reduce(gradient_bytes / buckets, workers)
    slowest = rng.choice(step.jitter, size=(DRAWS, workers)).max(axis=1)  # (DRAWS,)
    computing = step.per_image * share * slowest
    ready = [computing * (1 - BACKWARD * (1 - (k + 1) / buckets)) for k in range(buckets)]
    done = np.zeros(DRAWS)
    for moment in ready:
        done = np.maximum(done, moment) + reduce
    total = step.fixed * slowest + np.maximum(done, computing)
    useful = step.per_image * batch / workers
    return {
        "step": float(total.mean()),
        "computing": useful,
        "fixed": step.fixed,
        "waiting for the slowest": float((slowest - 1).mean() * step.seconds(share)),
        "gradients": float((np.maximum(done, computing) - computing).mean()),
        "uneven shares": step.per_image * share - useful,
    }


def noise_job(folder: Path) -> FitSpec:
    """The default cnn on 32x32 pictures."""
    source = noise_folder(folder / "noise", 3000)
    settings = [f"storage='{folder}'", f"data.source='{source}'", "archs=['cnn']"]
    settings += ["train.precision='fp32'", f"train.batch_size={BATCH}"]
    return prepare(load_config(None, settings), no_progress).specs["cnn"]


def one_batch(spec: FitSpec, size: int, device: torch.device) -> TrainingBatch:
    """Noise in the shape of the spec's pictures."""
    height, width, channels = spec.image_shape
    images = torch.randint(0, 256, (size, height, width, channels), dtype=torch.uint8)
    labels = torch.randint(0, spec.num_classes, (size,))
    turns = torch.zeros(size, dtype=torch.bool)
    return TrainingBatch(images.permute(0, 3, 1, 2).to(device), labels.to(device), turns.to(device))


def step_times(learner: Learner, share: int, repeats: int) -> list[float]:
    """Of a training step, without the first two, which warm up."""
    batch = one_batch(learner.spec, share, learner.device)
    times = []
    for _ in range(repeats + 2):
        if learner.device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        train_epoch(learner, [batch], lambda _: None)  # ends with a read of the scores
        times.append(time.perf_counter() - started)
    return times[2:]


def measure_step(spec: FitSpec, device: torch.device) -> Step:
    """A line through the medians by the size of the batch."""
    torch.set_num_threads(1)
    learner = build_learner(spec, device, Shard())
    samples = {size: step_times(learner, size, 30) for size in SIZES}
    medians = [statistics.median(samples[size]) for size in SIZES]
    # In shares of what is measured: small batches count as much as large ones.
    weights = 1 / np.array(medians)
    per_image, fixed = np.polyfit(SIZES, medians, 1, w=weights)
    largest = np.array(samples[SIZES[-1]]) / medians[-1]
    return Step(float(fixed), float(per_image), tuple(np.maximum(largest, 1.0).tolist()))


def measure_link(folder: Path) -> Link:
    """Of gloo between two processes of this machine."""
    times = in_group(2, _reduce_times, folder)
    bandwidths = np.polyfit([size for size, _ in times], [t for _, t in times], 1)
    slope, latency = bandwidths
    return Link(latency=float(max(latency, 1e-6)) / 2, bandwidth=1 / float(slope))


def _reduce_times(rank: int, workers: int) -> list[tuple[int, float]]:  # noqa: ARG001
    found = []
    for size in MESSAGES:
        gradients = torch.zeros(size // 4)
        times = []
        for _ in range(20):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(gradients)
            times.append(time.perf_counter() - started)
        found.append((size, statistics.median(times)))
    return found


def measure_workers(spec: FitSpec, folder: Path) -> dict[tuple[int, int], list[float]]:
    """Images a second by workers and threads; rounds in turn, for the machine is shared."""
    found: dict[tuple[int, int], list[float]] = {
        (1, os.cpu_count() or 1): [],
        **{(workers, 1): [] for workers in WORKERS},
    }
    for _ in range(ROUNDS):
        for (workers, threads), speeds in found.items():
            times = in_group(workers, _Steps(spec, threads), folder)
            speeds.append(BATCH / statistics.median(times))
    return found


def measure_contention(spec: FitSpec, folder: Path) -> float:
    """How much longer a step takes beside another process: they share memory, and GPUs do not."""
    times = {
        workers: statistics.median(
            statistics.median(in_group(workers, _Steps(spec, 1, apart=True), folder))
            for _ in range(ROUNDS)
        )
        for workers in (1, 2)
    }
    return times[2] / times[1]


@dataclass(frozen=True)
class _Steps:
    spec: FitSpec
    threads: int
    apart: bool = False  # each by itself, with half a batch

    def __call__(self, rank: int, workers: int) -> list[float]:
        torch.set_num_threads(self.threads)
        shard = Shard() if self.apart else Shard(rank, workers)
        learner = build_learner(self.spec, torch.device("cpu"), shard)
        share = BATCH // 2 if self.apart else len(range(rank, BATCH, workers))
        return step_times(learner, share, 8)


def in_group(workers: int, work: object, folder: Path) -> list:
    """What rank 0 returns of a function that several processes run together, one thread each."""
    meeting = Path(tempfile.mkdtemp(dir=folder))
    mp.spawn(_member, args=(workers, work, str(meeting)), nprocs=workers)
    return json.loads((meeting / "answer.json").read_text())


def _member(rank: int, workers: int, work: object, meeting: str) -> None:
    warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if workers > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}/group", rank=rank, world_size=workers
        )
    answer = work(rank, workers)
    if rank == 0:
        Path(meeting, "answer.json").write_text(json.dumps(answer))
    if workers > 1:
        dist.barrier()
        dist.destroy_process_group()


def operations(spec: FitSpec) -> tuple[float, float, int]:
    """Of a step: floating point operations for one picture, those for any, and calls of kernels."""
    learner = build_learner(spec, torch.device("cpu"), Shard())
    totals = {}
    for size in (8, 16):
        with FlopCounterMode(display=False) as counter, _Calls() as calls:
            train_epoch(learner, [one_batch(spec, size, learner.device)], lambda _: None)
        totals[size] = counter.get_total_flops()
    per_image = (totals[16] - totals[8]) / 8
    return per_image, totals[8] - 8 * per_image, calls.count


class _Calls(TorchDispatchMode):
    """Counts what PyTorch would launch on a GPU, views apart."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def table(rows: Sequence[Sequence[str]]) -> str:
    """For docs/results.md."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def draw(curves: "Curves", path: Path) -> None:
    """Speed-up by workers, beside the ideal."""
    figure = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    colors = ["#b9c4cc", ACCENT, MUTED, INK]
    workers = next(iter(curves.values()))[0]
    axes.plot(workers, workers, color=INK, lw=0.8, ls=":", label="ideal")
    for (name, (counts, speedups)), color in zip(curves.items(), colors, strict=False):
        axes.plot(counts, speedups, marker="o", ms=4, color=color, label=name)
        axes.annotate(
            f"{speedups[-1]:.3g}x",
            (counts[-1], float(speedups[-1])),
            xytext=(6, -3),
            textcoords="offset points",
            color=color,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(workers, [str(count) for count in workers])
    ticks = [2**k for k in range(10)]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("GPUs", color=INK)
    axes.set_ylabel("times as fast as one", color=INK)
    axes.set_title(
        "Simulated: the global batch decides where it stops", loc="left", color=INK, fontsize=12
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e9ec", lw=0.8)
    axes.legend(frameon=False, title="global batch")
    figure.savefig(path, dpi=130)


Curves = dict[str, tuple[list[int], npt.NDArray[np.float64]]]


def project(
    card: Step, gradient_bytes: int, rng: np.random.Generator
) -> tuple[Curves, list[list[str]]]:
    """Speed-ups by batch and number of GPUs, and the rows of a table that says why."""
    counts = [1, 8, 16, 32, 64, 128, 256, 512]
    curves: Curves = {}
    rows = [["batch", "GPUs", "images/s", "of the ideal", "most of the rest goes to"]]
    for batch in (512, 4096, 32768):
        told = {n: simulate(card, FABRIC, gradient_bytes, batch, n, rng) for n in counts}
        speedups = np.array([told[1]["step"] / told[n]["step"] for n in counts])
        curves[f"{batch:,}"] = (counts, speedups)
        for count, speedup in zip(counts, speedups, strict=True):
            lost = {k: v for k, v in told[count].items() if k not in {"step", "computing"}}
            worst = max(lost, key=lambda key: lost[key])
            speed = f"{batch / told[count]['step']:,.0f}"
            share = f"{lost[worst] / told[count]['step']:.0%} {worst}"
            rows.append([f"{batch:,}", str(count), speed, f"{speedup / count:.2f}", share])
    return curves, rows


def main() -> None:
    """Measure, predict, simulate; print tables and draw a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path())
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = noise_job(folder)
        step = measure_step(spec, torch.device("cpu"))
        link = measure_link(folder)
        per_image, of_step, calls = operations(spec)
        contention = measure_contention(spec, folder)
        learner = build_learner(spec, torch.device("cpu"), Shard())
        gradient_bytes = 4 * sum(p.numel() for p in learner.model.parameters() if p.requires_grad)
        speeds = measure_workers(spec, folder)
        on_card = measure_step(spec, torch.device("cuda")) if torch.cuda.is_available() else None
    report = [
        f"step: {1e3 * step.fixed:.1f} ms + {1e3 * step.per_image:.3f} ms an image, one thread"
    ]
    report += [f"gloo: {1e6 * link.latency:.0f} us, {link.bandwidth / 1e9:.2f} GB/s"]
    report += [
        f"{per_image / 1e9:.3f} GFLOP an image and {of_step / 1e9:.1f} a step in {calls} calls"
    ]
    report += [f"{gradient_bytes / 1e6:.1f} MB of gradients"]
    report += [f"two processes side by side, alone: each {contention:.2f} times as long", ""]
    cores = os.cpu_count() or 1
    rows = [["workers", "threads of each", "images/s", "predicted", "of one worker, all cores"]]
    whole = statistics.median(speeds[1, cores])
    for (workers, threads), found in speeds.items():
        median = statistics.median(found)
        told = ""
        if threads == 1 and workers <= cores:
            slower = contention if workers > 1 else 1.0
            slowed = replace(step, fixed=step.fixed * slower, per_image=step.per_image * slower)
            predicted = simulate(slowed, link, gradient_bytes, BATCH, workers, rng)["step"]
            told = f"{BATCH / predicted:,.0f}"
        spread = f"{median:,.0f} ({min(found):,.0f} to {max(found):,.0f})"
        rows.append([str(workers), str(threads), spread, told, f"{median / whole:.2f}"])
    report += [table(rows), ""]

    speed = PEAK * SHARE_OF_PEAK
    card = on_card or Step(calls * LAUNCH + of_step / speed, per_image / speed, step.jitter)
    curves, rows = project(card, gradient_bytes, rng)
    measured = "measured on this card" if on_card else "assumed"
    report += [
        f"one GPU: {1e3 * card.fixed:.2f} ms + {1e6 * card.per_image:.2f} us an image, {measured}"
    ]
    report += [table(rows)]
    print("\n".join(report))
    (out / "scaling.json").write_text(
        json.dumps({"step": asdict(step), "link": asdict(link), "calls": calls}, indent=1)
    )
    draw(curves, out / "scaling.png")


if __name__ == "__main__":
    main()
