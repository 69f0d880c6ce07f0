"""A store that a cluster prepares is the one that a single machine would have made."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from imgrec.config import ClusterConfig, DataConfig
from imgrec.data.images import FOLDER_VARIABLE, cache_folder, whole_images
from imgrec.data.scan import OneMachine
from imgrec.data.store import Store, prepare_store
from imgrec.distributed import spread
from imgrec.distributed.nodes import machines
from imgrec.distributed.session import Session, ray_session
from imgrec.distributed.spread import AllNodes
from imgrec.errors import DataError
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
) -> AllNodes:
    """Those of the cluster, with small pieces."""
    monkeypatch.setattr(spread, "WORTH_A_POOL", PIECE)
    shutil.rmtree(cache_folder())
    return AllNodes(machines(), OneMachine())


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
        and np.array_equal(one.images, other.images)
        and np.array_equal(one.labels, other.labels)
        and one.ids() == other.ids()
        and one.rejected() == other.rejected()
    )


@pytest.mark.parametrize("sides", [(12,), (12, *[30] * 20)], ids=["one size", "guessed wrong"])
def test_tasks_make_the_store_that_one_machine_makes(
    nodes: AllNodes, tmp_path: Path, sides: tuple[int, ...]
) -> None:
    """Images, labels, names, key and quarantine, also where all must be decoded again."""
    config = photos(tmp_path / "photos", *sides)
    said: list[str] = []
    alone = prepare_store(config, tmp_path / "alone", progress=no_progress)
    spread_out = prepare_store(
        config,
        tmp_path / "shared",
        progress=lambda what, done, total: said.append(f"{what} {done} of {total}"),
        places=nodes,
    )

    assert same(alone, spread_out)
    assert len(list(alone.folder.glob("images-*"))) == 1
    assert len(list(spread_out.folder.glob("images-*"))) == 120 // PIECE
    assert "decoding on 1 nodes 120 of 120" in said
    assert spread_out.images.filename == (cache_folder() / f"{spread_out.folder.name}.npy")


def test_a_copy_that_is_gone_is_made_again_and_one_that_is_there_is_used(
    nodes: AllNodes, tmp_path: Path
) -> None:
    """Every process of a machine maps one file."""
    config = photos(tmp_path / "photos", 12)
    store = prepare_store(config, tmp_path / "shared", progress=no_progress, places=nodes)
    copy = whole_images(store.folder, store.folder.name)
    made = copy.stat().st_ino
    assert whole_images(store.folder, store.folder.name).stat().st_ino == made
    copy.unlink()
    said: list[str] = []
    again = prepare_store(
        config, tmp_path / "shared", progress=lambda what, *_: said.append(what), places=nodes
    )

    assert said == ["copied to 1 of 1 nodes:"]
    assert same(store, again)


def test_the_copy_used_longest_ago_makes_room(
    nodes: AllNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where that is not enough, the error names the variable to set."""
    config = photos(tmp_path / "photos", 12)
    store = prepare_store(config, tmp_path / "shared", progress=no_progress, places=nodes)
    copy = whole_images(store.folder, store.folder.name)
    copy.unlink()
    old, older = copy.with_name("old.npy"), copy.with_name("older.npy")
    for age, path in enumerate((old, older), start=1):
        path.touch()
        os.utime(path, (time.time() - 60 * age,) * 2)

    def free(room: int) -> None:
        monkeypatch.setattr(
            "imgrec.data.images.shutil.disk_usage",
            lambda _: SimpleNamespace(free=room + (2 << 30) * (not older.exists())),
        )

    free(0)
    assert whole_images(store.folder, store.folder.name).exists()
    assert old.exists()
    assert not older.exists()
    copy.unlink()
    free(-(4 << 30))
    with pytest.raises(DataError, match=FOLDER_VARIABLE):
        whole_images(store.folder, store.folder.name)
    assert not old.exists()


class OfThisProcess:
    """A content that no other process reads as this one does."""

    def read(self) -> bytes:
        return str(os.getpid()).encode()


def test_pictures_that_a_node_does_not_see_are_decoded_here(nodes: AllNodes) -> None:
    """It is said which node that is; nothing goes to quarantine for it."""
    (node,) = machines()
    contents = [OfThisProcess()] * (PIECE + 1)

    assert nodes.cut(contents, 100) == [slice(0, PIECE + 1)]
    assert f"on one node alone, for {node.address} does not see" in nodes.label()
