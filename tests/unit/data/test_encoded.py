"""Pictures that are kept as JPEG give the batches that pixels give, but for what JPEG loses."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgrec.config import DataConfig, load_config
from imgrec.data import scan
from imgrec.data import shape as shape_of_store
from imgrec.data.encoded import EncodedImages, encode_jpeg, encoded_file
from imgrec.data.loader import Pictures, Shard, evaluation_batches, training_batches
from imgrec.data.splits import make_splits
from imgrec.data.store import Store, prepare_store
from imgrec.errors import StorageError
from imgrec.training.learner import build_learner
from imgrec.training.loop import fit
from pipelines.prepare import prepare
from tests.conftest import no_progress

CPU = torch.device("cpu")


SIDES = (24, 20)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of smooth pictures, and one file in the middle that is none."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for label in "abc":
        (folder / label).mkdir(parents=True)
        for index in range(40):
            few = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
            picture = Image.fromarray(few).resize(SIDES[::-1], Image.Resampling.BICUBIC)
            picture.save(folder / label / f"{index:02}.png")
    (folder / "b" / "20.png").write_bytes(b"no picture")
    return folder


def store_of(photos: Path, storage: Path, keep: str) -> Store:
    config = DataConfig(source=str(photos), keep=keep)
    return prepare_store(config, storage, progress=no_progress)


def test_an_encoded_store_holds_what_one_of_pixels_holds(photos: Path, tmp_path: Path) -> None:
    """The same pictures in the same rows, and the same data by their fingerprint; another key."""
    pixels, jpeg = (store_of(photos, tmp_path, keep) for keep in ("pixels", "jpeg"))

    assert isinstance(jpeg.images, EncodedImages)
    assert jpeg.images.shape == pixels.images.shape == (119, *SIDES, 3)
    assert jpeg.images.nbytes == pixels.images.nbytes
    assert np.abs(jpeg.images[:].astype(int) - pixels.images).mean() < 2
    assert jpeg.fingerprint == pixels.fingerprint
    assert jpeg.folder != pixels.folder
    assert np.array_equal(jpeg.labels, pixels.labels)
    assert [one.id for one in jpeg.rejected()] == ["b/20.png"]
    assert [path.name for path in jpeg.folder.glob("images-*")] == ["images-00000.arrow"]


def test_batches_come_in_the_same_order_either_way(photos: Path, tmp_path: Path) -> None:
    """Whichever way pictures are kept, a seed comes to the same labels, turns and pictures."""
    batches = {}
    for keep in ("pixels", "jpeg"):
        store = store_of(photos, tmp_path, keep)
        rows = make_splits(store, DataConfig(source=str(photos))).train
        pictures, shard = Pictures(store, CPU), Shard(1, 2)
        training = training_batches(pictures, rows, batch_size=16, seed=3, epoch=1, shard=shard)
        scored = evaluation_batches(pictures, rows, batch_size=50, shard=shard)
        batches[keep] = [*training, *scored]
    for one, other in zip(batches["pixels"], batches["jpeg"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))
        assert one[0].is_contiguous(memory_format=torch.channels_last)
        assert other[0].is_contiguous(memory_format=torch.channels_last)
        assert (one[0].float() - other[0].float()).abs().mean() < 2


def test_rows_are_had_one_by_one_in_any_order_and_by_threads(tmp_path: Path) -> None:
    """As from an array; in several files and batches, an empty one among them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
    encoded = [encode_jpeg(one) for one in pixels]
    for number, cuts in enumerate([(0, 7, 7, 120), (120, 300)]):
        with encoded_file(tmp_path / f"{number}.arrow") as add:
            for start, end in pairwise(cuts):
                add(encoded[start:end])
    images = EncodedImages([tmp_path / "0.arrow", tmp_path / "1.arrow"], (8, 8, 1))
    whole = images[:]

    assert np.abs(whole.astype(int) - pixels).mean() < 8  # of noise
    order = rng.permutation(300)
    assert np.array_equal(images[order], whole[order])
    assert np.array_equal(images[[7, 6, 120, 119]], whole[[7, 6, 120, 119]])
    assert np.array_equal(images[-1], whole[-1])
    assert np.array_equal(images[5:100:7], whole[5:100:7])
    assert images[np.array([], dtype=np.int64)].shape == (0, 8, 8, 1)


def test_a_model_learns_from_pictures_that_are_kept_as_jpeg(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """The whole way, from folder to scores."""
    settings = [
        f"storage='{tmp_path}'",
        f"data.source='{make_folder(30)}'",
        "data.keep=jpeg",
        "preprocess.augment=none",  # what is bright on the left must not be mirrored
        "archs=['ann']",
        "train.batch_size=16",
        "train.epochs=20",
    ]
    spec = prepare(load_config(None, settings), no_progress).specs["ann"]
    learner = build_learner(spec, CPU, Shard())
    fit(learner, on_epoch=lambda _: None)

    assert learner.best is not None
    assert learner.best.val.accuracy == 1


@pytest.mark.parametrize(
    ("keep", "most", "encoded"),
    [("auto", 1000, False), ("auto", 999, True), ("pixels", 999, False), ("jpeg", 1000, True)],
)
def test_pictures_are_encoded_where_their_pixels_take_too_much_room(
    monkeypatch: pytest.MonkeyPatch, keep: str, most: int, encoded: bool
) -> None:
    """Unless the settings say how to keep them; never by what a disk has free just now."""
    monkeypatch.setattr(scan, "MOST_PIXEL_BYTES", most)
    assert scan.is_to_be_encoded(DataConfig(keep=keep), 1000) is encoded


def test_a_shape_that_was_guessed_wrong_is_encoded_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all have in common is known only after all were seen."""
    monkeypatch.setattr(shape_of_store, "PEEKED", 1)
    with Image.open(photos / "c" / "39.png") as picture:
        larger = picture.resize((200, 200))
    larger.save(photos / "c" / "39.png")
    jpeg, pixels = (store_of(photos, tmp_path, keep) for keep in ("jpeg", "pixels"))

    assert jpeg.images[:].shape == pixels.images.shape == (119, 20, 20, 3)
    assert np.abs(jpeg.images[:].astype(int) - pixels.images).mean() < 2


def test_no_room_for_encoded_pictures_is_said_in_one_line(tmp_path: Path) -> None:
    """Where they cannot be written."""
    with (
        pytest.raises(StorageError, match="nowhere"),
        encoded_file(tmp_path / "nowhere" / "images.arrow"),
    ):
        pass


def test_a_file_that_is_cut_off_is_said_in_one_line(photos: Path, tmp_path: Path) -> None:
    """And not by a traceback of the library that reads it."""
    store = store_of(photos, tmp_path, "jpeg")
    (file,) = store.folder.glob("images-*.arrow")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(StorageError, match="is not whole; remove"):
        _ = store.images


@pytest.mark.parametrize("rows", [[5], [-6], np.array([0, 5])])
def test_a_row_that_is_not_there_is_an_error(tmp_path: Path, rows: object) -> None:
    """As it is of an array."""
    with encoded_file(tmp_path / "0.arrow") as add:
        add([encode_jpeg(np.zeros((8, 8, 1), dtype=np.uint8))] * 5)
    with pytest.raises(IndexError):
        _ = EncodedImages([tmp_path / "0.arrow"], (8, 8, 1))[rows]


def test_another_file_s_error_is_not_taken_for_this_disk_s(tmp_path: Path) -> None:
    """Such as a source that cannot be reached while its pictures are encoded."""
    with pytest.raises(ConnectionError), encoded_file(tmp_path / "0.arrow"):
        raise ConnectionError
