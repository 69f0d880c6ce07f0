"""What Ray costs the training loop: the same fit bare and in a Ray Train worker, side by side."""

import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrec.config import ClusterConfig, load_config
from imgrec.distributed.fit import Fitted, fit_on_workers
from imgrec.distributed.session import ray_session
from imgrec.training.learner import FitJob
from pipelines.prepare import prepare
from tests.conftest import no_progress

ROUNDS = 3
THREADS = 2
BARE = """
import pickle, statistics, sys, torch
from imgrec.data.loader import Shard
from imgrec.training.learner import build_learner
from imgrec.training.loop import fit
job = pickle.loads(sys.stdin.buffer.read())
torch.set_num_threads({threads})
learner = build_learner(job, torch.device("cpu"), Shard())
fit(learner, on_epoch=lambda _: None)
print(statistics.median(epoch["images_per_second"] for epoch in learner.history))
"""


def noise_folder(folder: Path, count: int) -> Path:
    """Pictures of 32x32 in ten classes; what they show does not matter for speed."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / str(index % 10) / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


def bare_speed(job: FitJob) -> float:
    import pickle

    ended = subprocess.run(
        [sys.executable, "-c", BARE.format(threads=THREADS)],
        input=pickle.dumps(job),
        capture_output=True,
        check=True,
    )
    return float(ended.stdout)


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_loop_in_a_ray_worker_is_as_fast_as_in_a_bare_script(tmp_path: Path) -> None:
    """At least 0.95: what Ray adds must not be paid in every step."""
    folder = noise_folder(tmp_path / "noise", 3000)
    settings = [
        f"storage='{tmp_path}'",
        f"data.source='{folder}'",
        "train.precision='fp32'",
        "train.batch_size=128",
        "archs=['ann', 'cnn']",  # the shortest steps, where overhead shows most, and the longest
        "ann.train.epochs=60",
        "cnn.train.epochs=4",
    ]
    jobs = prepare(load_config(None, settings), no_progress).jobs
    bare: dict[str, list[float]] = {arch: [] for arch in jobs}
    on_ray: dict[str, list[float]] = {arch: [] for arch in jobs}
    cluster = ClusterConfig(cpus_per_worker=THREADS)
    with ray_session(cluster, tmp_path / "ray.log") as session:
        for index in range(ROUNDS):
            for arch, job in jobs.items():
                bare[arch].append(bare_speed(job))
                names = {f"{arch}-{index}": job}
                fits = fit_on_workers(
                    session, names, cluster, storage=tmp_path / "ray", on_event=lambda *_: None
                )
                ((_, outcome),) = fits
                assert isinstance(outcome, Fitted)
                on_ray[arch].append(outcome.images_per_second)
    ratios = {}
    for arch in jobs:
        ratios[arch] = statistics.median(
            ray / alone for ray, alone in zip(on_ray[arch], bare[arch], strict=True)
        )
        print(
            f"\n{arch:12} bare {statistics.median(bare[arch]):9,.0f} images/s   "
            f"Ray {statistics.median(on_ray[arch]):9,.0f} images/s   "
            f"ratio {ratios[arch]:.3f} (median of {ROUNDS})",
            end="",
        )

    assert min(ratios.values()) >= 0.95
