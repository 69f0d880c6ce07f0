"""What is no picture says what it is; how large a picture may be goes by what decoding costs."""

import gzip
import io

import pytest
from PIL import Image

from imgrec.data.decode import Decoding, decode, read_header
from imgrec.errors import DecodeError

MOST = 50_000_000
FILES = {
    "a PDF": b"%PDF-1.7\n1 0 obj",
    "a drawing (SVG)": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "a web page": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "a video": b"\x00\x00\x00 ftypisom\x00\x00\x02\x00",
    "a zip": b"PK\x03\x04\x14\x00",
    "a gzip file": gzip.compress(b"x"),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a text file": b'{"error": "not found"}',
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_picture_says_what_it_is(kind: str) -> None:
    """Downloaded folders are full of such, and "unknown format" helps nobody."""
    with pytest.raises(DecodeError, match="not a picture but ") as caught:
        read_header(FILES[kind], max_pixels=MOST)

    assert kind in str(caught.value)


def jpeg(width: int, height: int, mode: str = "L", **how: bool) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), 90).save(buffer, "JPEG", **how)
    return buffer.getvalue()


def shown(content: bytes, side: int = 256) -> tuple[int, ...]:
    return decode(content, Decoding((side, side, 3), "fill", MOST)).shape


def test_a_photo_of_200_megapixels_is_read() -> None:
    """Telephones take such; at an eighth they cost as much as one of 3 megapixels."""
    content = jpeg(16320, 12240)

    assert shown(content) == (256, 256, 3)
    header = read_header(content, max_pixels=MOST)
    assert (header.height, header.width) == (12240, 16320)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(jpeg(8200, 6200, progressive=True), id="progressive, which is decoded whole"),
        pytest.param(jpeg(60000, 1000), id="a strip, which is not reduced"),
    ],
)
def test_what_is_decoded_whole_has_the_plain_limit(content: bytes) -> None:
    """A progressive file holds all of its coefficients in memory, whatever comes out."""
    with pytest.raises(DecodeError, match="more than 50,000,000 pixels"):
        shown(content)


def test_a_jpeg_beyond_the_larger_limit_is_refused_before_it_is_decoded() -> None:
    """Sixteen times the limit, which is 800 megapixels."""
    with pytest.raises(DecodeError, match="is more than 16,000,000 pixels"):
        decode(jpeg(4100, 4100), Decoding((64, 64, 3), "fill", 1_000_000))


def test_a_png_beyond_what_pillow_opens_is_refused() -> None:
    """Of other kinds the whole picture is decoded."""
    buffer = io.BytesIO()
    Image.new("1", (20000, 10000)).save(buffer, "PNG")

    with pytest.raises(DecodeError, match="more than 50,000,000 pixels"):
        shown(buffer.getvalue())
