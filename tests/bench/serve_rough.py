"""Ten thousand bad requests among good ones: every good one answered rightly, memory bounded, nothing restarted.

    uv run python -m tests.bench.serve_rough --model FOLDER --picture FILE [--bad 10000]

FOLDER holds a saved classifier. The server is `imgrec serve FOLDER` in a process of its own. Bad ones are random bytes,
truncated, huge and progressive pictures, bombs, wrong types and paths, slow bodies, half-closed connections; each in turn.
"""

import argparse
import io
import json
import random
import socket
import subprocess
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests
from PIL import Image

from imgrec.classifier import Classifier, Prediction
from tests.e2e.user import IMGREC

GOOD_CLIENTS, BAD_CLIENTS = 4, 12


def png_bomb(side: int) -> bytes:
    """A file of some kilobytes that claims so many pixels a side, all of one colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return len(content).to_bytes(4, "big") + kind + content + check.to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    rows = zlib.compress(bytes((side + 1) * min(side, 2000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def many_scans() -> bytes:
    """A progressive JPEG whose scans are repeated a thousand times."""
    buffer = io.BytesIO()
    Image.effect_noise((256, 256), 80).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * 1000 + b"\xff\xd9"


def attacks(address: str, name: str, good: bytes) -> list[Callable[[random.Random], Any]]:
    """What each bad client does in turn."""
    url = f"{address}/v1/models/{name}/predict"
    host, port = address.removeprefix("http://").split(":")
    bomb, scans, large = png_bomb(60_000), many_scans(), png_bomb(3_000)
    form = {"Content-Type": "multipart/form-data; boundary=x"}

    def post(content: bytes, **options: Any) -> int:
        return requests.post(url, data=content, timeout=60, **options).status_code

    def raw(content: bytes, *, wait: float = 0.0) -> int:
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(content)
            if wait:
                connection.shutdown(socket.SHUT_WR)
                time.sleep(wait)
                return len(connection.recv(100)) > 0
        return 0

    head = f"POST /v1/models/{name}/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    return [
        lambda dice: post(dice.randbytes(dice.randrange(1, 20_000))),
        lambda dice: post(good[: dice.randrange(1, len(good))]),
        lambda _: post(bomb),
        lambda _: post(large),
        lambda _: post(scans),
        lambda dice: post(b"\xff\xd8\xff\xe0" + dice.randbytes(3000)),
        lambda dice: post(b"--x\r\n" + dice.randbytes(500), headers=form),
        lambda _: (
            requests.post(f"{address}/v1/models/nobody/predict", data=good, timeout=60).status_code
        ),
        lambda _: requests.put(url, data=good, timeout=60).status_code,
        lambda dice: (
            requests.post(
                f"{address}/v2/models/{name}/infer", data=dice.randbytes(200), timeout=60
            ).status_code
        ),
        lambda _: raw(head.encode() + good),
        lambda _: raw(head.encode(), wait=0.05),
        lambda dice: raw(dice.randbytes(300), wait=0.01),
        lambda _: post(b""),
    ]


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """`imgrec serve` on a classifier, its address, and what it writes."""
    command = [*IMGREC, "serve", str(folder), "--port", "0", "--json"]
    screen = Path(tempfile.mkdtemp()) / "screen"  # a pipe that nobody reads would stop it
    with (
        screen.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        assert server.stdout is not None
        lines: list[str] = []
        while "}" not in lines:
            lines.append(server.stdout.readline().rstrip())
        yield server, json.loads("".join(lines))["address"], screen


def be_good(
    url: str, good: bytes, expected: Prediction, ends: threading.Event, answered: Counter[str]
) -> None:
    """Ask, and look whether the answer is right, until the end."""
    with requests.Session() as session:
        while not ends.is_set():
            answer = session.post(url, data=good, timeout=60)
            if answer.status_code != 200:
                answered[str(answer.status_code)] += 1
                continue
            (row,) = answer.json()["predictions"]
            near = abs(row["probability"] - expected.probability) < 1e-5
            answered["right" if near and row["label"] == expected.label else "wrong"] += 1


def be_bad(
    acts: Sequence[Callable[[random.Random], Any]], turns: range, statuses: Counter[str]
) -> None:
    """Each attack in turn."""
    for turn in turns:
        try:
            statuses[str(acts[turn % len(acts)](random.Random(turn)))] += 1
        except (OSError, requests.RequestException) as error:
            statuses[type(error).__name__] += 1


def watch(process: psutil.Process, ends: threading.Event, memory: list[int]) -> None:
    """Its memory, twice a second."""
    while not ends.wait(0.5):
        memory.append(process.memory_info().rss)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--bad", type=int, default=10_000)
    said = parser.parse_args()
    good = said.picture.read_bytes()
    (expected,) = Classifier.load(said.model).predict(good)
    name = said.model.resolve().name
    ends, answered, statuses = threading.Event(), Counter[str](), Counter[str]()
    memory: list[int] = []
    with running(said.model) as (server, address, screen), ThreadPoolExecutor(32) as pool:
        process = psutil.Process(server.pid)
        family = {one.pid for one in process.children(recursive=True)}
        url = f"{address}/v1/models/{name}/predict"
        acts = attacks(address, name, good)
        started = time.monotonic()
        beside = [
            pool.submit(be_good, url, good, expected, ends, answered) for _ in range(GOOD_CLIENTS)
        ]
        beside.append(pool.submit(watch, process, ends, memory))
        bad = [
            pool.submit(be_bad, acts, range(one, said.bad, BAD_CLIENTS), statuses)
            for one in range(BAD_CLIENTS)
        ]
        for one in bad:
            one.result()
        ends.set()
        for one in beside:
            one.result()
        told = {
            "seconds": round(time.monotonic() - started, 1),
            "good": dict(answered),
            "bad": dict(sorted(statuses.items())),
            "memory_mb": [round(min(memory) / 1e6), round(max(memory) / 1e6)],
            "alive": server.poll() is None,
            "decoding_processes_replaced": len(
                {one.pid for one in process.children(recursive=True)} - family
            ),
        }
        server.terminate()
        server.wait()
    print(json.dumps(told | {"tracebacks": screen.read_text().count("Traceback")}, indent=2))


if __name__ == "__main__":
    main()
