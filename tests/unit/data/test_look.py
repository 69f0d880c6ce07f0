"""The perceptual hash of a picture."""

from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from skimage.data import astronaut, chelsea

from imgrec.data.content import InMemoryPixels
from imgrec.data.decode import Decoding
from imgrec.data.look import look_at


def test_hashes_are_those_of_imagehash(tmp_path: Path) -> None:
    """Bit for bit, for photographs of any size."""
    parts = [astronaut()[top : top + 100, 100:260] for top in range(0, 300, 30)]
    parts += [chelsea()[:32, left : left + 32] for left in range(0, 300, 30)]
    np.save(tmp_path / "images-00000.npy", np.zeros((len(parts), 32, 32, 3), dtype=np.uint8))
    contents = [InMemoryPixels(part) for part in parts]
    how = Decoding((32, 32, 3), "fill", 10**6)
    ours = look_at(0, contents, tmp_path / "images-00000.npy", how).looks["hash"]
    theirs = [int(str(imagehash.phash(Image.fromarray(part))), 16) for part in parts]

    assert ours.tolist() == theirs
