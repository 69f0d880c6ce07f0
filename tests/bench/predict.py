"""Pictures a second of `imgrec predict --out`, beside a bare loop over the same model; and once killed half-way.

    uv run python -m tests.bench.predict --model FOLDER --pictures FOLDER

The model is a saved classifier. The bare loop is what a person writes: Pillow, batches of 256, torch, in one process. Both
are timed as whole commands, imports and all, in turns; the loop is timed by itself, too.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from imgrec.classifier import Classifier
from tests.e2e.user import IMGREC

BATCH, ROUNDS = 256, 3


def bare(classifier: Classifier, files: list[Path]) -> tuple[float, list[str]]:
    """Pictures a second, and the labels."""
    card = classifier.card
    height, width, channels = card.stored_shape
    labels: list[str] = []
    started = time.perf_counter()
    for start in range(0, len(files), BATCH):
        pixels = [
            np.asarray(
                Image.open(file).convert("L" if channels == 1 else "RGB").resize((width, height))
            ).reshape(height, width, channels)
            for file in files[start : start + BATCH]
        ]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        best = classifier.probabilities(images).argmax(dim=1)
        labels += [card.class_names[one] for one in best.tolist()]
    return len(files) / (time.perf_counter() - started), labels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--bare", action="store_true")
    said = parser.parse_args()
    files = sorted(path for path in said.pictures.rglob("*") if path.is_file())
    if said.bare:
        print(bare(Classifier.load(said.model), files)[0])
        return
    command = [
        *IMGREC,
        "predict",
        str(said.model),
        str(said.pictures),
        "--quiet",
        "--json",
        "--out",
    ]
    told: dict[str, object] = {"pictures": len(files)}
    with tempfile.TemporaryDirectory() as work:
        whole, killed = Path(work) / "whole.parquet", Path(work) / "killed.parquet"
        _, labels = bare(Classifier.load(said.model), files)  # and the files are in memory
        script = [sys.executable, "-m", "tests.bench.predict", "--bare"]
        script += ["--model", str(said.model), "--pictures", str(said.pictures)]
        rates: dict[str, list[float]] = {"imgrec, the command": [], "bare, the script": []}
        rates["bare, its loop alone"] = []
        for turn in range(ROUNDS):
            started = time.perf_counter()
            subprocess.run([*command, str(whole)], check=True, capture_output=True)
            seconds = time.perf_counter() - started
            rates["imgrec, the command"].append(len(files) / seconds)
            started = time.perf_counter()
            done = subprocess.run(script, check=True, capture_output=True, text=True)
            rates["bare, the script"].append(len(files) / (time.perf_counter() - started))
            rates["bare, its loop alone"].append(float(done.stdout))
            whole.rename(whole.with_name(f"whole-{turn}.parquet"))
        told |= {name: [round(one) for one in some] for name, some in rates.items()}
        whole = whole.with_name("whole-0.parquet")
        with subprocess.Popen([*command, str(killed)], stdout=subprocess.PIPE) as process:
            time.sleep(seconds / 2)
            process.send_signal(signal.SIGKILL)
        assert not killed.exists()
        resumed = subprocess.run(
            [*command, str(killed)], check=True, capture_output=True, text=True
        )
        told["taken after the kill"] = json.loads(resumed.stdout)["taken"]
        first, second = pq.read_table(whole), pq.read_table(killed)
        told["distinct"] = len(set(second["picture"].to_pylist()))
        told["the same"] = first.equals(second)
        same = [one == other for one, other in zip(first["label"].to_pylist(), labels, strict=True)]
        told["labels as the bare loop's"] = sum(same) / len(same)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
