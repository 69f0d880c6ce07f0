"""The data sets of torchvision."""

from pathlib import Path

import numpy as np
import pytest

from imgrec.errors import DataError
from tests.unit.data.sources.made import (
    samples_of,
    stored,
)


def _write_idx(path: Path, values: np.ndarray) -> None:
    """MNIST's own format: a magic number, the sizes, the bytes."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def test_a_torchvision_data_set_is_read_by_its_own_class(tmp_path: Path) -> None:
    """Its files are laid where its download would put them: there is no network here."""
    raw = tmp_path / "storage" / "downloads" / "torchvision" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("t10k", 20)):
        _write_idx(raw / f"{split}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        _write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(count) % 10)
    store = stored("torchvision:FashionMNIST", tmp_path)

    assert store.images.shape == (80, 28, 28, 1)
    assert "Ankle boot" in store.class_names
    assert np.bincount(store.given_splits).tolist() == [60, 0, 20]


def test_without_a_network_a_download_says_so(tmp_path: Path) -> None:
    """And where its files would have to be put by hand."""
    with pytest.raises(DataError, match=r"cannot be downloaded .*; try again with a network") as e:
        samples_of("torchvision:FashionMNIST", tmp_path)

    assert str(tmp_path) in str(e.value)


def test_a_torchvision_data_set_without_train_is_refused(tmp_path: Path) -> None:
    """Some have splits with names of their own; to guess which is train would be worse."""
    with pytest.raises(DataError, match="EMNIST: has no split called train"):
        samples_of("torchvision:EMNIST", tmp_path)
