"""Synthetic pictures in as many classes as ImageNet has, as WebDataset shards: how far a machine gets with them.

    python -m tests.bench.imagenet --out FOLDER [--pictures 100000] [--classes 1000] [--side 300]
    imgrec run --data "FOLDER/*.tar" --arch cnn ...

A class is a colour gradient and a grating of its own, under noise, so that there is something to learn. What the
pictures show is no part of any result: what is measured is time and memory a picture.
"""

import argparse
import io
import math
import tarfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

A_SHARD = 1000
NOISE = 18.0
QUALITY = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--side", type=int, default=300)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    write = partial(shard, asked.out, asked.pictures, asked.classes, asked.side)
    with ProcessPoolExecutor() as pool:
        list(pool.map(write, range(math.ceil(asked.pictures / A_SHARD))))


def shard(out: Path, pictures: int, classes: int, side: int, number: int) -> None:
    """Write one tar: `0000123.jpg` beside `0000123.cls`, the class by its number."""
    with tarfile.open(out / f"train-{number:05d}.tar", "w") as tar:
        for index in range(number * A_SHARD, min(pictures, (number + 1) * A_SHARD)):
            label = index % classes
            for name, content in (
                (f"{index:07d}.jpg", encoded(label, index, side)),
                (f"{index:07d}.cls", f"n{label:08d}".encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def encoded(label: int, index: int, side: int) -> bytes:
    """A JPEG of a picture of this class, (side, side, 3); each index another."""
    of_class, own = np.random.default_rng([7, label]), np.random.default_rng([8, index])
    corners = of_class.uniform(30, 225, (2, 2, 3)) + own.normal(0, 40, (2, 2, 3))
    t = np.linspace(0, 1, side, dtype=np.float32)
    top, bottom = ((1 - t)[:, None] * left + t[:, None] * right for left, right in corners)
    picture = (1 - t)[:, None, None] * top + t[:, None, None] * bottom  # (side, side, 3)
    angle, waves = of_class.uniform(0, math.pi), of_class.uniform(3, 14)
    along = t[:, None] * math.sin(angle) + t[None, :] * math.cos(angle)
    grating = 30 * np.sin(2 * math.pi * waves * along + own.uniform(0, 2 * math.pi))
    noise = own.integers(-NOISE, NOISE, (side, side, 3), dtype=np.int16)
    levels = (picture + grating[:, :, None] + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
