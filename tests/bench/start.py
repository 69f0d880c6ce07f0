"""From the command to the first epoch, and to the end, by a clock outside.

    python -m tests.bench.start --rounds 6 [--python OTHER/.venv/bin/python]

`imgrec run --arch cnn` on the digits, in an empty folder each time. "First epoch" is the first line that tells of one, after
some of its steps. With --python it runs another checkout's, in turns.
"""

import argparse
import subprocess
import sys
import tempfile
import time

WORDS = ["-m", "pipelines", "run", "--arch", "cnn"]


def seconds_of(python: str) -> tuple[float, float]:
    """To the first line about an epoch, and to the end."""
    first = 0.0
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with subprocess.Popen(
            [python, *WORDS],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr
            for line in process.stderr:
                if "epoch 1/" in line and not first:
                    first = time.perf_counter() - started
        whole = time.perf_counter() - started
    assert process.returncode == 0
    return first, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default="")
    asked = parser.parse_args()
    for _ in range(asked.rounds):
        for python in filter(None, (asked.python, sys.executable)):
            first, whole = seconds_of(python)
            print(f"{python}: first epoch {first:.1f} s, whole command {whole:.1f} s", flush=True)


if __name__ == "__main__":
    main()
