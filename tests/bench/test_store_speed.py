"""How fast pictures come out of a store: as pixels, as JPEG by threads, as JPEG by Ray Data."""

import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgrec.config import ClusterConfig, DataConfig
from imgrec.data.loader import Pictures
from imgrec.data.store import prepare_store
from imgrec.distributed.session import ray_session
from imgrec.distributed.stream import StreamedPictures
from tests.conftest import no_progress

ROUNDS = 3
BATCH = 256
BATCHES = 60
CPU = torch.device("cpu")


def smooth_folder(folder: Path, count: int, side: int) -> Path:
    """Pictures that JPEG makes small, as it does photos."""
    rng = np.random.default_rng(0)
    for index in range(count):
        few = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(few).resize((side, side), Image.Resampling.BICUBIC)
        path = folder / str(index % 10) / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return folder


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("side", [32, 128])
def test_pictures_a_second_out_of_each_kind_of_store(tmp_path: Path, side: int) -> None:
    """Encoded ones must come faster than a CPU trains on them."""
    folder = smooth_folder(tmp_path / "photos", 2000, side)
    pixels, jpeg = (
        prepare_store(
            DataConfig(source=str(folder), keep=keep, near_duplicates=0),
            tmp_path,
            progress=no_progress,
        )
        for keep in ("pixels", "jpeg")
    )
    rng = np.random.default_rng(0)
    choices = [rng.integers(0, len(pixels.labels), BATCH) for _ in range(BATCHES)]
    kinds = {
        "pixels": Pictures(pixels, CPU),
        "jpeg, threads": Pictures(jpeg, CPU),
        "jpeg, Ray Data": StreamedPictures(jpeg, CPU, 2),
    }
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    with ray_session(ClusterConfig(), tmp_path / "ray.log", cpus=2):
        for _ in range(ROUNDS):
            for kind, pictures in kinds.items():
                started = time.perf_counter()
                seen = sum(len(rows) for rows, _ in pictures.in_turn(choices))
                speeds[kind].append(seen / (time.perf_counter() - started))
    room = sum(f.stat().st_size for f in jpeg.folder.glob("images-*")) / pixels.images.nbytes
    print(f"\n{side} px: the JPEG take {room:.0%} of the room of the pixels", end="")
    for kind, found in speeds.items():
        print(f"\n{side} px, {kind:15} {statistics.median(found):10,.0f} images/s", end="")

    # The cnn trains on 1,000 pictures of 32 pixels a second here, and on a sixteenth of 128.
    assert statistics.median(speeds["jpeg, threads"]) > 3000 * (32 / side) ** 2
