"""A person with a folder of pictures, who types commands."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import picture

IMGREC = [sys.executable, "-m", "pipelines"]


SMALL = """
archs = ["ann", "cnn", "rnn", "transformer"]
[preprocess]
flip = false  # or left would be right
erase = 0.0
[train]
epochs = 20
batch_size = 16
[ann.model]
hidden = [32]
[cnn.model]
widths = [8, 16]
[rnn.model]
hidden = 16
[transformer.model]
width = 32
depth = 1
[report]
corrupted = 0  # one test asks for it
[cluster]
cpus_per_worker = 1  # two threads on so little would mostly wait for each other
"""


CLASSES = ("left", "middle", "right")


def imgrec(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """One command, with environment variables of its own."""
    return subprocess.run(
        [*IMGREC, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | variables,
    )


def end_of(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """What a command has written when it ends; where it does not end in time the test fails, and says where it is.

    That is written at SIGABRT by a process that was started with PYTHONFAULTHANDLER=1.
    """
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        status = process.poll()
        process.send_signal(signal.SIGABRT)
    said: Any = ""
    try:
        _, said = process.communicate(timeout=5)
    except subprocess.TimeoutExpired as others:  # who hold its pipe
        said = others.stderr
    pytest.fail(f"not over after {seconds} s, status {status}, written: {said}")


@contextlib.contextmanager
def served(command: list[str], url: str, **options: Any) -> Iterator[None]:
    """A server in the background, ready inside; stopped with all its children after."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    ) as process:
        try:
            for _ in range(240):
                assert process.poll() is None, "the server ended"
                with (
                    contextlib.suppress(OSError, http.client.HTTPException),
                    urllib.request.urlopen(url, timeout=2),
                ):
                    break
                time.sleep(0.25)
            else:
                pytest.fail(f"no answer from {url}")
            yield
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                for child in [*parent.children(recursive=True), parent]:
                    child.kill()


def refuse_unregistered(ended: subprocess.CompletedProcess[str]) -> None:
    """Fail unless a run has registered its models; where few pictures show little, none need be champion."""
    assert ended.returncode in {0, 3}, ended.stderr
    if ended.returncode == 3:
        assert "there is no champion, for it does not beat" in ended.stderr.splitlines()[-1]


def make_pictures(folder: Path) -> None:
    """Pictures of three classes, one file that is none, and settings for small models."""
    for label, name in enumerate(CLASSES):
        (folder / "my pictures" / name).mkdir(parents=True)
        for index in range(60):
            picture(label, index).save(folder / "my pictures" / name / f"{index}.png")
    (folder / "my pictures" / "left" / "broken.png").write_bytes(b"\x89PNG and no more")
    (folder / "small.toml").write_text(SMALL)
