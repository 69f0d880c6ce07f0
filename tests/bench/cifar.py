"""Accuracy by time on CIFAR-10 as JPEG files: `imgrec run` beside a plain script, on this machine.

    python -m tests.bench.cifar --data FOLDER --out FOLDER
    python -m tests.bench.cifar --data FOLDER --out FOLDER --seeds 0 --tag short --set cnn.train.epochs=1
    python -m tests.bench.cifar --data FOLDER --out FOLDER --seeds 0 --archs ann,rnn,transformer --set ...
    python -m tests.bench.cifar --data FOLDER --out FOLDER --seeds 0 --recipe 60,120,240,480 --precision bf16 ...

One after the other, never side by side: the plain script (plain_script.py) for as many seconds as
asked, the recipe airbench94 (airbench94.py) once for each time that is asked for, then for each seed a whole `imgrec run`, from the files to registered models. What lies in the
folder is not repeated; the table and the picture (cifar.png) are of all that lies there.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mlflow import MlflowClient

from imgrec.evaluation.pictures import ACCENT, INK

COLORS = {"cnn": ACCENT, "transformer": "#b5651d", "rnn": "#2e7d5b", "ann": "#7a5ea8"}
GOAL = 0.90
TICKS = (0.1, 0.2, 0.5, 1, 2, 4, 8)
"""Minutes."""
LABELS_AT, LEAST_GAP = 9.6, 0.035


def plain(data: Path, out: Path, seconds: float) -> dict[str, Any]:
    """The plain script."""
    file = out / "plain.json"
    if not file.exists():
        words = ["--data", str(data), "--seconds", str(seconds), "--out", str(file)]
        subprocess.run([sys.executable, "-m", "tests.bench.plain_script", *words], check=True)
    return json.loads(file.read_text(encoding="utf-8"))


def recipe(data: Path, out: Path, seconds: str, precision: str) -> dict[str, Any]:
    """The recipe, given so many seconds."""
    file = out / f"recipe-{precision}-{seconds}.json"
    if not file.exists():
        words = ["--data", str(data), "--seconds", seconds, "--precision", precision]
        subprocess.run(
            [sys.executable, "-m", "tests.bench.airbench94", *words, "--out", str(file)], check=True
        )
    return json.loads(file.read_text(encoding="utf-8"))


def ours(data: Path, out: Path, archs: str, name: str, settings: list[str]) -> None:
    """A whole run in a storage of its own; what it says, and the validation accuracy by time."""
    file = out / f"run-{name}.json"
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))["settings"]
        assert before == settings, f"{file} is of other settings, {before}: give a --tag"
        return
    storage = out / f"storage-{name}"
    shutil.rmtree(storage, ignore_errors=True)
    words = ["run", "--data", str(data), "--name", "cifar", "--arch", archs, "--json"]
    for setting in [f"storage={storage}", *settings]:
        words += ["--set", setting]
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "pipelines", *words], stdout=subprocess.PIPE, check=True
    )
    found = json.loads(ended.stdout) | {"wall_seconds": time.perf_counter() - started}
    found["settings"] = settings
    client = MlflowClient(found["tracking_uri"])
    for model in found["models"]:
        accuracies = client.get_metric_history(model["run_id"], "val/accuracy")
        times = client.get_metric_history(model["run_id"], "epoch_seconds")
        spent = 0.0
        model["curve"] = []
        for accuracy, taken in zip(accuracies, times, strict=True):
            spent += taken.value
            model["curve"].append((spent, accuracy.value))
    file.write_text(json.dumps(found, indent=1), encoding="utf-8")


def seconds_to(curve: list[tuple[float, float]], accuracy: float) -> float | None:
    """When a curve first reaches an accuracy."""
    return next((seconds for seconds, reached in curve if reached >= accuracy), None)


def draw(
    script: dict[str, Any], recipes: list[dict[str, Any]], runs: list[dict[str, Any]], file: Path
) -> None:
    """Accuracy by minutes of training; a dot for the test accuracy at the end."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    minutes, accuracies_of_script = zip(*[(s / 60, a) for s, a in script["curve"]], strict=True)
    axes.plot(minutes, accuracies_of_script, color="0.5", lw=1.5, ls="--")
    if recipes:
        times, reached = zip(
            *[(r["seconds"] / 60, r["test_accuracy"]) for r in recipes], strict=True
        )
        axes.plot(times, reached, "s--", color="0.5", ms=5, lw=1)
    ends: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for model in (model for run in runs for model in run["models"]):
        color, curve, accuracy = COLORS[model["arch"]], model["curve"], model["test"]["accuracy"]
        minutes, accuracies = zip(*[(s / 60, a) for s, a in curve], strict=True)
        axes.plot(minutes, accuracies, color=color, lw=1.5, alpha=0.8)
        axes.plot(minutes[-1], accuracy, "o", color=color, ms=5)
        ends[model["arch"]].append((minutes[-1], accuracy, len(curve)))
    labels = [
        (accuracies_of_script[-1], f"plain resnet18 script {script['test_accuracy']:.3f}", INK)
    ]
    if recipes:
        labels.append((reached[-1], f"airbench94 {reached[-1]:.3f}", INK))
    for arch, found in ends.items():
        longest = max(epochs for *_, epochs in found)
        final = sorted(accuracy for _, accuracy, epochs in found if epochs == longest)
        middle = statistics.median(final)
        several = f", median of {len(final)}" if len(final) > 1 else ""
        labels.append((middle, f"{arch} {middle:.3f}{several}", COLORS[arch]))
        for minute, accuracy, epochs in found:
            if epochs < longest:
                text = f"{arch}, {epochs} epoch{'s'[: epochs - 1]} {accuracy:.3f}"
                axes.annotate(
                    text,
                    (minute, accuracy),
                    xytext=(-7, -4),
                    textcoords="offset points",
                    ha="right",
                    color=COLORS[arch],
                )
    lowest = 0.0
    for accuracy, text, color in sorted(labels):
        lowest = max(accuracy, lowest + LEAST_GAP)  # none over another
        axes.text(LABELS_AT, lowest, text, color=color, va="center")
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0.1, 1.0)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set_xlim(TICKS[0], LABELS_AT)
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(
        "CIFAR-10 as JPEG files, two CPU cores: lines validation (script: test), dots test",
        loc="left",
        fontsize=10,
    )
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure, draw, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--archs", default="cnn")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tag", default="", help="of runs with other settings than the default")
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--recipe", default="", help="seconds of trainings of airbench94")
    parser.add_argument(
        "--precision", default="bf16", help="of airbench94: what ours says it takes here"
    )
    parser.add_argument("--set", dest="settings", action="append", default=[])
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    script = plain(arguments.data, out, arguments.seconds)
    asked = [one for one in arguments.recipe.split(",") if one]
    recipes = [recipe(arguments.data, out, one, arguments.precision) for one in asked]
    called = "-".join(filter(None, [*arguments.archs.split(","), arguments.tag]))
    for seed in arguments.seeds.split(","):
        settings = [f"seed={seed}", *arguments.settings]
        ours(arguments.data, out, arguments.archs, f"{called}-{seed}", settings)
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob("run-*.json"))]
    print(
        f"plain script  test accuracy {script['test_accuracy']:.4f} after {script['seconds']:.0f} s, "
        f"{script['images_per_second']:.0f} images/s"
    )
    for found in recipes:
        print(
            f"airbench94    test accuracy {found['test_accuracy']:.4f} after {found['seconds']:.0f} s, "
            f"{found['images_per_second']:.0f} images/s, {found['epochs']:.1f} epochs"
        )
    scores = defaultdict(list)
    for run in runs:
        said = " ".join(run["settings"])
        for model in run["models"]:
            scores[model["arch"], *run["settings"][1:]].append(model["test"]["accuracy"])
            reached = seconds_to(model["curve"], script["test_accuracy"])
            print(
                f"{model['arch']:12}  test accuracy {model['test']['accuracy']:.4f} after "
                f"{model['fit_seconds']:.0f} s of training, {model['images_per_second']:.0f} images/s; "
                f"whole run {run['wall_seconds']:.0f} s; the script's accuracy after "
                f"{'never' if reached is None else f'{reached:.0f} s'}; "
                f"{GOAL:.2f} (val) after {seconds_to(model['curve'], GOAL)}  ({said})"
            )
    for (arch, *_), reached in scores.items():
        print(
            f"{arch:12}  {len(reached)} seeds: median {statistics.median(reached):.4f}, "
            f"{min(reached):.4f} to {max(reached):.4f}"
        )
    draw(script, recipes, runs, out / "cifar.png")


if __name__ == "__main__":
    main()
