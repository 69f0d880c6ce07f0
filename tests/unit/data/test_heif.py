"""HEIC, which phones write: an extra, under the same limits as all else."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from skimage.data import chelsea

from imgrec.data.decode import _reads_heif, read_header, read_picture
from imgrec.errors import DecodeError


@pytest.fixture(scope="module")
def content() -> bytes:
    """A photo as a phone held upright writes it: turned by its metadata."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    image = Image.fromarray(chelsea())
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "HEIF", quality=90, exif=exif.tobytes())
    return buffer.getvalue()


def test_a_photo_of_a_phone_is_read_upright(content: bytes) -> None:
    """Pixels, size and header agree."""
    picture = read_picture(content, max_pixels=10**6)
    upright = np.rot90(chelsea(), -1)

    assert (picture.header.height, picture.header.width) == upright.shape[:2] == (451, 300)
    assert read_header(content, max_pixels=10**6) == picture.header
    assert np.abs(picture.pixels.astype(int) - upright).mean() < 4


def test_without_the_extra_the_reason_names_it(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in the quarantine beside each of them."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    _reads_heif.cache_clear()
    try:
        with pytest.raises(DecodeError, match=r"HEIC: install imgrec\[heif\]"):
            read_picture(content, max_pixels=10**6)
    finally:
        _reads_heif.cache_clear()


def test_the_pixel_limit_holds(content: bytes) -> None:
    """Before anything is decoded."""
    with pytest.raises(DecodeError, match="more than 1,000 pixels"):
        read_picture(content, max_pixels=1000)


@pytest.mark.parametrize("kept", [20, 500, 5000])
def test_a_truncated_file_is_refused(kept: int, content: bytes) -> None:
    """Half a picture is no picture."""
    with pytest.raises(DecodeError):
        read_picture(content[:kept], max_pixels=10**6)
