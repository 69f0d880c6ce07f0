"""Photos: imgrec from noise, its probe and its fine-tuning beside the scripts that people write over timm.

    uv run python -m tests.bench.photos --data CLOTHES --out FOLDER [--draws 0 1 2] [--sizes 50 500 all] [--core]

CLOTHES is ../shared/data's clothes.tar, unpacked. A size is a number of training photos, evenly of all classes, drawn
by a seed; val and test are whole. Every method is a process of its own, one after the other, with the same weights
(EfficientNet-Lite0), on this machine in one run. Written are `photos.json`, a table (`photos.md`) and a picture of
accuracy by time (`photos.png`). With `--core` ours is the fit alone, without Ray and a record, as on a machine
with a GPU that has neither. Where val chose nothing (the probe, the regression) accuracy is on val and test
together. With `--steps` only the time of a training step is measured, ours and the script's in turns.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from sklearn.linear_model import LogisticRegressionCV
from sklearn.preprocessing import StandardScaler
from statsmodels.stats.proportion import proportion_confint

from imgrec.config import DataConfig, TrackingConfig, load_config
from imgrec.data.loader import Pictures, Shard, training_batches
from imgrec.data.splits import make_splits
from imgrec.data.store import open_store
from imgrec.evaluation.pictures import INK
from imgrec.training.learner import build_learner
from imgrec.training.loop import train_epoch
from pipelines.prepare import prepare
from tests.bench.photo_scripts import TRAIN, loader, train

ROOT = Path(__file__).parents[2]
SPLITS = ("val", "test")
COLOURS = ("#4a6fa5", "#c8553d", "#588157", "#8f5db7", "#c9a227", "#3d3d3d")
Found = dict[str, Any]
STEPS, ROUNDS = 20, 3


def draw(clothes: Path, count: int | None, seed: int, folder: Path) -> Path:
    """A folder with links to so many training photos, evenly of all classes, and to all of val and test."""
    rng = np.random.default_rng(seed)
    for split in ("train", *SPLITS):
        classes = sorted(path for path in (clothes / split).iterdir() if path.is_dir())
        for label in classes:
            files = sorted(label.iterdir())
            if split == "train" and count is not None:
                files = [files[row] for row in rng.permutation(len(files))[: count // len(classes)]]
            (folder / split / label.name).mkdir(parents=True)
            for file in files:
                (folder / split / label.name / file.name).symlink_to(file)
    return folder


def imgrec(*settings: str) -> Callable[[Path, Path, int], Found]:
    """What one command of ours takes and comes to, in an empty folder."""

    def run(data: Path, work: Path, seed: int) -> Found:
        command = [sys.executable, "-m", "pipelines", "train", "--arch", "cnn", "--data", str(data)]
        command += ["--json", "--quiet", "--set", f"seed={seed}"]
        for setting in settings:
            command += ["--set", setting]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - started
        (model,) = json.loads(done.stdout)["models"]
        from imgrec.tracking.connection import connect
        from imgrec.tracking.query import find_runs, metric_history
        from imgrec.tracking.tags import KIND

        tracking = connect(TrackingConfig(), work / "mlruns", create=False)
        (record,) = find_runs(tracking, {KIND: "model"})
        return {split: model[split]["accuracy"] for split in SPLITS} | {
            "seconds": seconds,
            "fit_seconds": model["fit_seconds"],
            "best_epoch": record.metrics["best_epoch"],
            "val_by_epoch": list(metric_history(tracking, record.id, "val/accuracy").values()),
        }

    return run


def core(*settings: str) -> Callable[[Path, Path, int], Found]:
    """The same of our core alone."""

    def run(data: Path, work: Path, seed: int) -> Found:
        command = [sys.executable, "-m", "tests.bench.core_fit", "--data", str(data)]
        command += ["--storage", str(work / "mlruns"), "--set", f"seed={seed}"]
        for setting in settings:
            command += ["--set", setting]
        return _timed(command)

    return run


def _timed(command: Sequence[str]) -> Found:
    """What a program prints last, and how long it took."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds": time.perf_counter() - started}


def script(style: str) -> Callable[[Path, Path, int], Found]:
    """The same of a script."""

    def run(data: Path, work: Path, seed: int) -> Found:
        command = [sys.executable, "-m", "tests.bench.photo_scripts", style, "--data", str(data)]
        command += ["--storage", str(work), "--seed", str(seed)]
        return _timed(command)

    return run


def regression(probed: Path) -> Found:
    """scikit-learn's logistic regression on the features that a probe of ours has left, C by cross-validation."""
    started = time.perf_counter()
    (file,) = probed.glob("mlruns/store/*/features-*.npy")
    store = open_store(file.parent)
    splits = make_splits(store, DataConfig())
    features = np.load(file)
    scaler = StandardScaler().fit(features[splits.train])
    fitted = LogisticRegressionCV(
        Cs=np.logspace(-4, 0, 9), cv=5, max_iter=1000, scoring="neg_log_loss", l1_ratios=(0,)
    ).fit(scaler.transform(features[splits.train]), store.labels[splits.train])
    return {
        split: float(
            np.mean(fitted.predict(scaler.transform(features[rows])) == store.labels[rows])
        )
        for split, rows in (("val", splits.val), ("test", splits.test))
    } | {"seconds": time.perf_counter() - started}


OURS = {
    "imgrec, from noise": ["cnn.model.backbone=compact"],
    "imgrec, probe": ["cnn.train.finetune=probe"],
    "imgrec": [],
}
SCRIPTS = {"timm script": "timm", "fastai's way": "fastai"}
METHODS = [*OURS, *SCRIPTS]
CHOSE_NOTHING = {"imgrec, probe", "scikit-learn on the probe's features"}
REGRESSION = "scikit-learn on the probe's features"


def measured(
    clothes: Path, sizes: Sequence[str], draws: Sequence[int], names: set[str], *, core_alone: bool
) -> Iterator[Found]:
    """Every method on every draw."""
    ours = core if core_alone else imgrec
    methods = {name: ours(*settings) for name, settings in OURS.items()}
    methods |= {name: script(style) for name, style in SCRIPTS.items()}
    for size in sizes:
        count = None if size == "all" else int(size)
        for seed in draws:
            with tempfile.TemporaryDirectory(
                prefix="photos-", dir=os.environ.get("TMPDIR")
            ) as made:
                data = draw(clothes, count, seed, Path(made) / "photos")
                for name, method in methods.items():
                    if name not in names:
                        continue
                    work = Path(made) / name.replace(" ", "-").replace(",", "")
                    work.mkdir()
                    about = {"size": size, "draw": seed}
                    yield {"method": name, **about, **method(data, work, seed)}
                    if name == "imgrec, probe":
                        yield {"method": REGRESSION, **about, **regression(work)}
                    shutil.rmtree(work)


def step_milliseconds(clothes: Path, work: Path) -> Iterator[Found]:
    """What a training step takes a picture, at 224 pixels and batches of 32, in turns: the script's, and ours."""
    config = load_config(
        None,
        [
            f"data.source='{clothes}'",
            f"storage='{work / 'mlruns'}'",
            "archs=['cnn']",
            "cnn.train={start_size=1.0, batch_size=32}",
        ],
    )
    prepared = prepare(config, lambda *_: None)
    learner = build_learner(prepared.specs["cnn"], torch.device("cpu"), Shard())
    learner.epochs_done = 1  # the first has no steps
    pictures = Pictures(prepared.store, learner.device)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=10, drop_rate=0.2)
    theirs = iter(loader(clothes, "train", TRAIN, shuffle=True))
    groups: list[dict[str, object]] = [{"params": list(model.parameters()), "lr": 1e-3}]

    def script() -> None:
        train(model, groups, list(itertools.islice(theirs, STEPS)), 1)

    def ours() -> None:
        batches = training_batches(
            pictures, learner.splits.train, batch_size=32, seed=0, epoch=1, shard=Shard()
        )
        train_epoch(learner, itertools.islice(batches, STEPS), lambda _: None)

    for turn in range(ROUNDS + 1):
        for name, work_through in (("timm script", script), ("imgrec", ours)):
            started = time.perf_counter()
            work_through()
            took = (time.perf_counter() - started) / STEPS / 32 * 1000
            if turn:  # the first warms up
                yield {"method": name, "round": turn, "milliseconds_a_picture": took}


def both(found: Found, counts: dict[str, int]) -> float:
    """Accuracy on val and test together."""
    return sum(found[split] * counts[split] for split in SPLITS) / sum(counts.values())


def table(rows: Sequence[Found], counts: dict[str, int]) -> str:
    """Means over draws, with the 95 % interval of the test pictures (Wilson) and the spread of the draws."""
    lines = [
        "| photos | | val | test | 95 % of test | val and test | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in dict.fromkeys(row["size"] for row in rows):
        for method in dict.fromkeys(row["method"] for row in rows):
            some = [row for row in rows if (row["size"], row["method"]) == (size, method)]
            if not some:
                continue
            val, test, seconds = (
                statistics.fmean(row[key] for row in some) for key in ("val", "test", "seconds")
            )
            low, high = proportion_confint(
                round(test * counts["test"]), counts["test"], method="wilson"
            )
            spread = [both(row, counts) for row in some]
            together = f"{statistics.fmean(spread):.4f} ({min(spread):.4f} to {max(spread):.4f})"
            if method not in CHOSE_NOTHING:
                together = ""
            lines.append(
                f"| {size} | {method} | {val:.4f} | {test:.4f} | {low:.3f} to {high:.3f} | {together} "
                f"| {seconds:.0f} |"
            )
    return "\n".join(lines)


def picture(rows: Sequence[Found]) -> Figure:
    """Test accuracy by the seconds of a command, a colour for each method, a panel for each size."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(4.2 * len(sizes), 4), layout="constrained", facecolor="white")
    panels = np.atleast_1d(figure.subplots(1, len(sizes), sharey=True))
    for panel, size in zip(panels, sizes, strict=True):
        for colour, method in zip(COLOURS, methods, strict=False):
            some = [row for row in rows if (row["size"], row["method"]) == (size, method)]
            if some:
                seconds, test = ([row[key] for row in some] for key in ("seconds", "test"))
                panel.scatter(seconds, test, color=colour, label=method, s=28)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(FixedLocator([10, 30, 100, 300, 1000]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:.0f}"))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlim(6, 2500)
        panel.set_title(f"{size} photos", color=INK, fontsize=10)
        panel.set_xlabel("seconds", color=INK)
        panel.grid(color="#e6eaee", linewidth=0.8)
        panel.set_axisbelow(True)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        panel.tick_params(colors=INK)
    panels[0].set_ylabel("test accuracy", color=INK)
    known = {
        text: mark
        for panel in panels
        for mark, text in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        known.values(), known.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=6
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=["50", "500", "all"])
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", action="store_true", help="Time steps alone.")
    parser.add_argument("--core", action="store_true", help="Ours without Ray and a record.")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    asked = parser.parse_args()
    clothes = asked.data.resolve()
    counts = {split: len(list((clothes / split).glob("*/*"))) for split in SPLITS}
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.steps:
        with tempfile.TemporaryDirectory(prefix="photos-") as made:
            for row in step_milliseconds(clothes, Path(made)):
                print(json.dumps(row), flush=True)
        return
    rows: list[Found] = []
    names = set(asked.methods)
    for row in measured(clothes, asked.sizes, asked.draws, names, core_alone=asked.core):
        rows.append(row)
        print(json.dumps(row), flush=True)
        (asked.out / "photos.json").write_text(json.dumps(rows, indent=1))
    (asked.out / "photos.md").write_text(table(rows, counts) + "\n")
    picture(rows).savefig(asked.out / "photos.png", dpi=130)
    print(table(rows, counts))


if __name__ == "__main__":
    main()
