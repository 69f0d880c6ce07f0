"""A store that a cluster prepares is the one that a single machine would have made."""

import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from imgrec.cache import FOLDER_VARIABLE, cache_folder
from imgrec.config import ClusterConfig, DataConfig
from imgrec.data.decode import Decoding
from imgrec.data.images import all_images
from imgrec.data.parallel import end_decoders
from imgrec.data.scan import LocalDecoding, ScanPart, scan_part
from imgrec.data.store import Store, prepare_store
from imgrec.distributed import spread
from imgrec.distributed.nodes import list_nodes
from imgrec.distributed.session import Session, ray_session
from imgrec.distributed.spread import ClusterDecoding
from imgrec.errors import DecodeError, StorageError
from tests.conftest import no_progress

PIECE = 20


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A Ray whose one node has a disk of its own."""
    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(FOLDER_VARIABLE, str(folder / "disk"))
        with ray_session(ClusterConfig(), folder / "ray.log", cpus=2) as up:
            yield up


@pytest.fixture
def nodes(
    session: Session,  # noqa: ARG001 - a Ray that is up
    monkeypatch: pytest.MonkeyPatch,
) -> ClusterDecoding:
    """Those of the cluster, with small parts."""
    monkeypatch.setattr(spread, "LEAST_PART", PIECE)
    shutil.rmtree(cache_folder())
    return ClusterDecoding(list_nodes(), LocalDecoding())


def photos(folder: Path, *sides: int) -> DataConfig:
    """Two classes of 60 pictures, of which one is broken."""
    rng = np.random.default_rng(0)
    for number in range(120):
        path = folder / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = sides[number % len(sides)]
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    (folder / "a" / "000.png").write_bytes(b"no picture")
    return DataConfig(source=str(folder))


def same(one: Store, other: Store) -> bool:
    return (
        one.folder.name == other.folder.name
        and one.fingerprint == other.fingerprint
        and np.array_equal(one.images[:], other.images[:])
        and np.array_equal(one.labels, other.labels)
        and one.ids() == other.ids()
        and one.rejected() == other.rejected()
    )


@pytest.mark.parametrize("sides", [(12,), (12, *[30] * 20)], ids=["one size", "guessed wrong"])
def test_tasks_make_the_store_that_one_machine_makes(
    nodes: ClusterDecoding, tmp_path: Path, sides: tuple[int, ...]
) -> None:
    """Images, labels, names, key and quarantine, also where all must be decoded again."""
    config = photos(tmp_path / "photos", *sides)
    said: list[str] = []
    alone = prepare_store(config, tmp_path / "alone", progress=no_progress)
    spread_out = prepare_store(
        config,
        tmp_path / "shared",
        progress=lambda what, done, total: said.append(f"{what}: {done} of {total}"),
        backend=nodes,
    )

    assert same(alone, spread_out)
    assert len(list(alone.folder.glob("images-*"))) == 1
    assert len(list(spread_out.folder.glob("images-*"))) == 120 // PIECE
    assert "decoding pictures on 1 node: 120 of 120" in said
    assert spread_out.images.filename == (cache_folder() / f"{spread_out.folder.name}.npy")


def test_tasks_encode_the_pictures_that_one_machine_encodes(
    nodes: ClusterDecoding, tmp_path: Path
) -> None:
    """They stay where they lie, for they may be too many for a node's disk."""
    config = photos(tmp_path / "photos", 12).model_copy(update={"keep": "jpeg"})
    alone = prepare_store(config, tmp_path / "alone", progress=no_progress)
    spread_out = prepare_store(config, tmp_path / "shared", progress=no_progress, backend=nodes)

    assert same(alone, spread_out)
    assert len(list(spread_out.folder.glob("images-*.arrow"))) == 120 // PIECE
    assert not copy_of(spread_out).exists()


def copy_of(store: Store) -> Path:
    return cache_folder() / f"{store.folder.name}.npy"


def test_a_copy_that_is_gone_is_made_again_and_one_that_is_there_is_used(
    nodes: ClusterDecoding, tmp_path: Path
) -> None:
    """Every process of a machine maps one file."""
    config = photos(tmp_path / "photos", 12)
    store = prepare_store(config, tmp_path / "shared", progress=no_progress, backend=nodes)
    made = copy_of(store).stat().st_ino
    all_images(store.folder, store.folder.name, 119, store.image_shape)
    assert copy_of(store).stat().st_ino == made
    copy_of(store).unlink()
    said: list[str] = []
    again = prepare_store(
        config, tmp_path / "shared", progress=lambda what, *_: said.append(what), backend=nodes
    )

    assert said == ["pictures copied to 1 of 1 nodes"]
    assert same(store, again)


def test_a_store_with_a_piece_missing_is_not_copied(nodes: ClusterDecoding, tmp_path: Path) -> None:
    """Its rows would belong to other labels."""
    config = photos(tmp_path / "photos", 12)
    store = prepare_store(config, tmp_path / "shared", progress=no_progress, backend=nodes)
    copy_of(store).unlink()
    (store.folder / "images-00002.npy").unlink()
    with pytest.raises(StorageError, match="not whole; remove it"):
        all_images(store.folder, store.folder.name, 119, store.image_shape)
    assert not copy_of(store).exists()


def test_the_copy_used_longest_ago_makes_room(
    nodes: ClusterDecoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all together would not be enough none goes, and the error names the variable to set."""
    config = photos(tmp_path / "photos", 12)
    store = prepare_store(config, tmp_path / "shared", progress=no_progress, backend=nodes)
    copy_of(store).unlink()
    old, older = cache_folder() / "old.npy", cache_folder() / "older.npy"
    for age, path in enumerate((old, older), start=1):
        with path.open("wb") as file:
            file.truncate(2 << 30)  # takes no room
        os.utime(path, (time.time() - 60 * age,) * 2)
    left_over = cache_folder() / "killed.part"
    left_over.touch()

    def disk(free: int) -> None:
        monkeypatch.setattr(
            "imgrec.data.images.shutil.disk_usage",
            lambda _: SimpleNamespace(free=free + (2 << 30) * (not older.exists())),
        )

    disk(-(8 << 30))
    with pytest.raises(StorageError, match=FOLDER_VARIABLE):
        all_images(store.folder, store.folder.name, 119, store.image_shape)
    assert old.exists()
    assert older.exists()
    assert not left_over.exists()

    disk(0)
    assert len(all_images(store.folder, store.folder.name, 119, store.image_shape)) == 119
    assert old.exists()
    assert not older.exists()


class OnlyHere:
    """A content that processes of other nodes do not see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes:
        if "MOUNTED_HERE" not in os.environ:
            msg = f"there is no {self.path}"
            raise DecodeError(msg)
        return self.path.read_bytes()


def test_what_a_node_cannot_read_is_read_here_before_it_is_believed(
    nodes: ClusterDecoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that came later may not have mounted the pictures."""
    monkeypatch.setenv("MOUNTED_HERE", "yes")
    end_decoders()  # those that are started now know it
    photos(tmp_path / "photos", 12)
    contents = [OnlyHere(path) for path in sorted(tmp_path.glob("photos/b/*.png"))]
    pieces = [
        ScanPart(contents[start : start + PIECE], tmp_path / f"images-{start:05}.npy")
        for start in range(0, len(contents), PIECE)
    ]
    done: list[int] = []
    reading = partial(scan_part, how=Decoding((12, 12, 3), "fill", 10**6))
    found = list(nodes.work(reading, pieces, done.append))

    assert [len(one.looks) for one in found] == [PIECE, PIECE, PIECE]
    assert sum(done) == len(contents)
    end_decoders()


def test_a_piece_of_which_nothing_can_be_read_is_left_out(
    nodes: ClusterDecoding, tmp_path: Path
) -> None:
    """Its file is there, and empty."""
    config = photos(tmp_path / "photos", 12)
    for path in sorted(tmp_path.glob("photos/a/*.png"))[: 2 * PIECE]:
        path.write_bytes(b"no picture")
    store = prepare_store(config, tmp_path / "shared", progress=no_progress, backend=nodes)

    assert store.quarantined == 2 * PIECE
    assert store.images.shape == (120 - 2 * PIECE, 12, 12, 3)


class OfThisProcess:
    """A content that no other process reads as this one does."""

    def read(self) -> bytes:
        return str(os.getpid()).encode()


def test_pictures_that_a_node_does_not_see_are_decoded_here(nodes: ClusterDecoding) -> None:
    """It is said which node that is; nothing goes to quarantine for it."""
    (node,) = list_nodes()
    contents = [OfThisProcess()] * (PIECE + 1)

    assert nodes.cut(contents, 100, encoded=False) == [slice(0, PIECE + 1)]
    assert f"{node.address} does not see the pictures" in nodes.label()
