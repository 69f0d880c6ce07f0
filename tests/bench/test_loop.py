"""What imgrec and Ray cost the training loop: a fit, beside a loop as one writes it by hand.

The hand-written one has the same model, pictures, augmentation, loss and optimizers, and nothing else: all
pictures in memory, no metrics, no clock, no callbacks, no process beside it.

Both are compared by their fast epochs: a virtual machine has phases of seconds to minutes in which two threads do hardly more
than one (docs/log.md), and a few fits that hit them unequally would decide the ratio.
"""

import json
import pickle
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrec.config import ClusterConfig, load_config
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.fit import Fitted, fit_on_workers
from imgrec.distributed.session import Session, ray_session
from imgrec.training.spec import FitSpec
from pipelines.prepare import prepare
from tests.conftest import no_progress

ROUNDS, FAST = 5, 90
THREADS = 2
SETTINGS = [
    "train.precision='fp32'",
    "train.max_grad_norm=0",
    "train.batch_size=128",
    "cnn.train.epochs=4",
    "cnn.train.start_size=1",  # so that all epochs are alike
]
BARE = """
import json, pickle, sys, time, torch
from imgrec.data.loader import Shard
from imgrec.data.splits import make_splits
from imgrec.data.store import open_store
from imgrec.training.growth import resized
from imgrec.training.learner import build_learner
spec = pickle.loads(sys.stdin.buffer.read())
torch.set_num_threads({threads})
made = build_learner(spec, torch.device("cpu"), Shard())
model, recipe, loss_fn = made.model.train(), made.recipe.train(), made.loss_fn
store = open_store(spec.store)
rows = make_splits(store, spec.data).train
images = torch.from_numpy(store.images[rows]).permute(0, 3, 1, 2)
labels = torch.from_numpy(store.labels[rows])
speeds, done = [], 0
for epoch in range(spec.train.epochs):
    started = time.perf_counter()
    for chosen in torch.randperm(len(rows)).split(spec.train.batch_size)[: spec.steps_per_epoch]:
        inputs = resized(recipe(images[chosen]), spec.share_of_side(done))
        loss = loss_fn(model(inputs), labels[chosen])
        loss.backward()
        for optimizer, schedule in zip(made.optimizers, made.schedules):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        if made.average:
            made.average.update()
        done += 1
    seen = spec.steps_per_epoch * spec.train.batch_size
    speeds.append(seen / (time.perf_counter() - started))
print(json.dumps(speeds))
"""


def noise_folder(folder: Path, count: int) -> Path:
    """Pictures of 32x32 in ten classes; what they show does not matter for speed."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / str(index % 10) / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


def bare_speeds(spec: FitSpec) -> list[float]:
    """Images/s of each epoch."""
    ended = subprocess.run(
        [sys.executable, "-c", BARE.format(threads=THREADS)],
        input=pickle.dumps(spec),
        capture_output=True,
        check=True,
    )
    speeds: list[float] = json.loads(ended.stdout)
    return speeds


def speeds_on_ray(
    session: Session, spec: FitSpec, cluster: ClusterConfig, folder: Path
) -> list[float]:
    """The same of a fit through Ray Train, its training alone."""
    name = f"{spec.model.arch}-{uuid.uuid4().hex[:6]}"
    demand = plan_demand(session.nodes, cluster)
    fits = fit_on_workers(
        session, {name: spec}, cluster, demand, storage=folder, on_event=lambda *_: None
    )
    ((_, outcome),) = fits
    assert isinstance(outcome, Fitted)
    return [epoch["images_per_second"] for epoch in outcome.history]


def fast(speeds: list[float]) -> float:
    """What nine tenths of the epochs do not reach."""
    return float(np.percentile(speeds, FAST))


def told(what: str, speeds: list[float]) -> str:
    """As a part of a line."""
    slow, usual = np.percentile(speeds, (10, 50))
    return f"{what} {fast(speeds):7,.0f} images/s (a tenth below {slow:,.0f}, half below {usual:,.0f})   "


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_loop_in_a_ray_worker_is_as_fast_as_one_written_by_hand(tmp_path: Path) -> None:
    """At least 0.97: what imgrec and Ray add must not be paid in every step."""
    folder = noise_folder(tmp_path / "noise", 3000)
    settings = [
        *SETTINGS,
        f"storage='{tmp_path}'",
        f"data.source='{folder}'",
        "archs=['ann', 'cnn']",  # the shortest steps, where overhead shows most, and the longest
        "ann.train.epochs=60",
        "cnn.train.epochs=8",
    ]
    specs = prepare(load_config(None, settings), no_progress).specs
    bare: dict[str, list[float]] = {arch: [] for arch in specs}
    on_ray: dict[str, list[float]] = {arch: [] for arch in specs}
    cluster = ClusterConfig(cpus_per_worker=THREADS)
    with ray_session(cluster, tmp_path / "ray.log") as session:
        for _ in range(ROUNDS):
            for arch, spec in specs.items():
                bare[arch] += bare_speeds(spec)
                on_ray[arch] += speeds_on_ray(session, spec, cluster, tmp_path / "ray")
    ratios = {}
    for arch in specs:
        ratios[arch] = fast(on_ray[arch]) / fast(bare[arch])
        print(
            f"\n{arch:12} {told('by hand', bare[arch])}{told('imgrec', on_ray[arch])}"
            f"ratio {ratios[arch]:.3f}",
            end="",
        )

    assert min(ratios.values()) >= 0.97


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_two_workers_of_one_core_are_nearly_as_fast_as_one_with_two(tmp_path: Path) -> None:
    """At least 0.9: gradients travel while the backward pass goes on, and nothing is done twice."""
    folder = noise_folder(tmp_path / "noise", 3000)
    settings = [
        *SETTINGS,
        f"storage='{tmp_path}'",
        f"data.source='{folder}'",
        "archs=['cnn']",
        "train.batch_size=256",
    ]
    spec = prepare(load_config(None, settings), no_progress).specs["cnn"]
    one, two = ClusterConfig(cpus_per_worker=2), ClusterConfig(workers=2, cpus_per_worker=1)
    speeds: dict[int, list[float]] = {1: [], 2: []}
    with ray_session(one, tmp_path / "ray.log") as session:
        for _ in range(ROUNDS):
            speeds[1] += speeds_on_ray(session, spec, one, tmp_path / "ray")
            speeds[2] += speeds_on_ray(session, spec, two, tmp_path / "ray")
    ratio = fast(speeds[2]) / fast(speeds[1])
    print(
        f"\n{told('one worker, two threads', speeds[1])}{told('two workers', speeds[2])}"
        f"ratio {ratio:.3f}",
        end="",
    )

    assert ratio >= 0.9
