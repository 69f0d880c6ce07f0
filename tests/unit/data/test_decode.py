"""The one decoder: every kind of picture comes out as upright uint8 of one shape, or not at all."""

import io
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from imgrec.data.decode import (
    FORMATS,
    MOST_SCANS,
    Decoding,
    decode,
    encode_png,
    read_header,
    read_picture,
)
from imgrec.data.depth import choose_depth
from imgrec.errors import DecodeError
from tests.conftest import ROOT
from tests.unit.data.made import MAX_PIXELS, encoded


def decoded(content: bytes, shape: tuple[int, int, int] = (8, 8, 3)) -> np.ndarray:
    return decode(content, Decoding(shape, "stretch", MAX_PIXELS))


def _seeds() -> list[tuple[str, bytes]]:
    """A small picture in every format that Pillow writes."""
    Image.init()
    noise = Image.effect_noise((16, 16), 50)
    kinds = [
        (kind, mode) for kind in FORMATS if kind in Image.SAVE for mode in ("RGB", "L", "P", "1")
    ]
    found = []
    for kind, mode in kinds:
        try:
            found.append((kind, encoded(noise.convert("RGB").convert(mode), kind)))
        except (OSError, ValueError, KeyError):
            continue
    frames = [Image.effect_noise((16, 16), 50 + n) for n in range(3)]
    return found + [
        (kind, encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
        for kind in ("GIF", "PNG", "WEBP", "TIFF")
    ]


SEEDS = _seeds()


RED = Image.new("RGB", (8, 8), (200, 10, 10))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_png_comes_out_alike(mode: str, channels: int) -> None:
    """White is white, whatever the file stores."""
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 65_535, dtype=np.uint16))
    else:
        image = Image.new("RGB", (8, 8), "white").convert(mode)

    pixels = decoded(encoded(image), (8, 8, channels))

    assert (pixels == 255).all()


def test_cmyk_is_converted() -> None:
    """Printers' JPEG files hold four channels."""
    pixels = decoded(encoded(RED.convert("CMYK"), "JPEG", quality=95))

    assert np.abs(pixels.reshape(-1, 3).mean(0) - (200, 10, 10)).max() < 12


def test_sixteen_bits_keep_their_upper_eight() -> None:
    """Pillow's own conversion would make everything above 255 white."""
    image = Image.fromarray(np.full((8, 8), 128 * 256, dtype=np.uint16))

    assert (decoded(encoded(image), (8, 8, 1)) == 128).all()


def test_what_is_transparent_becomes_white() -> None:
    """Below an alpha of zero there may be any colour, which nobody ever saw."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))

    assert (decoded(encoded(image)) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "deep PNG"])
def test_exif_orientation_is_obeyed(orientation: int, kind: str) -> None:
    """Phones store pictures lying on their side and say so."""
    upright = np.zeros((8, 16, 3), dtype=np.uint8)
    upright[:2, :4] = 255  # a mark in the upper left corner
    turns = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if (turn := turns[orientation]) is not None:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "deep PNG":
        stored = Image.fromarray(np.asarray(stored.convert("L")).astype(np.uint16) * 257)
    content = encoded(stored, kind.removeprefix("deep "), exif=exif)

    header = read_header(content, max_pixels=MAX_PIXELS)
    assert (header.height, header.width) == (8, 16)
    np.testing.assert_array_equal(decoded(content, (8, 16, 3)), upright)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    """There is no better one to choose."""
    blue = Image.new("RGB", (8, 8), (10, 10, 200))
    content = encoded(RED, "GIF", save_all=True, append_images=[blue])

    assert decoded(content)[0, 0, 0] > 150


def test_the_pixel_limit_holds_before_memory_is_spent() -> None:
    """A bomb is a small file that would unpack to gigabytes."""
    content = encoded(Image.new("1", (20_000, 20_000)))

    assert len(content) < 100_000
    with pytest.raises(DecodeError, match="more than 100,000 pixels"):
        decoded(content)
    with pytest.raises(DecodeError, match="more than 100,000 pixels"):
        read_header(content, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not a picture"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:1000], "truncated"),
    ],
)
def test_what_is_no_picture_has_a_reason(content: bytes, reason: str) -> None:
    """The quarantine file shows it."""
    with pytest.raises(DecodeError, match=reason):
        decoded(content)


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F")


# PSD is read only; SPIDER holds floats of any range.
WRITTEN = sorted(set(FORMATS) - {"PSD"})


COARSE = {"P": 30, "PA": 60, "LAB": 30, "HSV": 12, "YCbCr": 12, "CMYK": 12}


def _written(kind: str, mode: str) -> tuple[Image.Image, bytes]:
    """A picture from dark to bright in this mode and format; ValueError if Pillow writes no such."""
    levels = np.linspace(20, 235, 64, dtype=np.uint8).reshape(8, 8)
    grey = Image.fromarray(levels)
    match mode:
        case "I;16":
            image = Image.fromarray(levels.astype(np.uint16) * 257)
        case "I":
            image = Image.fromarray(levels.astype(np.int32) * 257)
        case "F":
            image = Image.fromarray(levels.astype(np.float32))
        case "LAB":
            image = ImageCms.applyTransform(grey.convert("RGB"), SRGB_TO_LAB)  # type: ignore[assignment]
        case "PA":
            image = grey.convert("P").convert("PA")
        case _:
            image = grey.convert("RGB").convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    try:
        return grey, encoded(image, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise ValueError(kind, mode) from error


def _is_read_by_pillow(content: bytes) -> bool:
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError:
        return False
    return True


SRGB_TO_LAB = ImageCms.buildTransform(
    ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
)


@pytest.mark.filterwarnings("ignore:Saving I mode images:DeprecationWarning")
@pytest.mark.parametrize("kind", WRITTEN)
def test_every_mode_of_every_format_comes_out_in_the_same_shape_and_range(kind: str) -> None:
    """Whatever Pillow writes: the same picture, as near as the format keeps it."""
    Image.init()
    if kind not in Image.SAVE:
        assert kind == "QOI"  # read only in some versions
        return
    modes = 0
    for mode in MODES:
        try:
            grey, content = _written(kind, mode)
        except ValueError:
            continue
        modes += 1
        if not _is_read_by_pillow(content):  # not always what it writes
            continue
        looked = read_picture(content, max_pixels=2_000_000)
        depth = choose_depth(np.array([looked.peak]), np.array([looked.header.mode]))
        pixels = decode(content, Decoding((8, 8, 3), "stretch", 2_000_000, depth))

        assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8), mode
        if mode in {"I", "I;16", "F"} and kind not in {"PNG", "TIFF"}:
            continue  # Pillow cuts them off at 255 when it writes
        if mode == "1" or kind in {
            "XBM",
            "MSP",
        }:  # black and white, as dense as the picture is bright
            assert abs(pixels.mean() - np.asarray(grey).mean()) < 40, mode
        else:
            off = np.abs(pixels.mean(axis=2) - np.asarray(grey)).mean()
            assert off < COARSE.get(mode, 8), (mode, off)
    assert modes


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(1, 100),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    st.booleans(),
    st.booleans(),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_the_fast_way_through_jpeg_gives_pillows_pixels(
    seed: int, quality: int, subsampling: str, progressive: bool, grey: bool, size: tuple[int, int]
) -> None:
    """To the last bit: else a file would look otherwise with a line of EXIF in it."""
    shape = (*size, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(pixels).convert("L" if grey else "RGB")
    options = {} if grey else {"subsampling": subsampling}
    content = encoded(image, "JPEG", quality=quality, progressive=progressive, **options)

    with Image.open(io.BytesIO(content)) as opened:
        np.testing.assert_array_equal(
            read_picture(content, max_pixels=MAX_PIXELS).pixels, np.asarray(opened)
        )


def test_a_large_jpeg_is_reduced_and_looks_the_same() -> None:
    """Detail that the store has no room for is not decoded; what is left is the same picture."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((1200, 1200), Image.Resampling.BICUBIC)
    content = encoded(image, "JPEG", quality=95)
    picture = read_picture(content, max_pixels=2_000_000)
    ours = decode(content, Decoding((64, 64, 3), "fill", 2_000_000))
    whole = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))

    assert picture.pixels.shape == (300, 300, 3)
    assert (picture.header.height, picture.header.width) == (1200, 1200)
    assert np.abs(ours.astype(int) - whole).mean() < 3
    assert read_picture(content, max_pixels=2_000_000, side=512).pixels.shape == (1200, 1200, 3)


@pytest.mark.parametrize("kind", ["ICNS", "BLP"])
def test_formats_that_hide_how_large_they_are_are_not_read(kind: str) -> None:
    """Of a file in a file the limit would be checked after its memory is spent, if at all."""
    content = encoded(Image.new("P" if kind == "BLP" else "RGB", (64, 64)), kind)

    with pytest.raises(DecodeError, match="not a picture"):
        decoded(content)


@pytest.mark.parametrize("size", [(2, 400), (400, 2), (1, 1), (7, 5)])
@pytest.mark.parametrize("resize", ["fill", "fit", "stretch"])
def test_strips_come_out_in_the_shape_too(size: tuple[int, int], resize: Any) -> None:
    """One that is thinner than a pixel after resizing is still there."""
    content = encoded(Image.new("RGB", size, "white"))
    pixels = decode(content, Decoding((28, 28, 3), resize, MAX_PIXELS))

    assert pixels.shape == (28, 28, 3)
    assert pixels.max() == 255


def test_eps_is_not_run() -> None:
    """It is a program, and Pillow would have Ghostscript run it."""
    with pytest.raises(DecodeError, match="not a picture in a known format"):
        decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")


def _result_of(content: bytes) -> None:
    """A picture within the limits, or a reason in one line."""
    try:
        picture = read_picture(content, max_pixels=MAX_PIXELS)
    except DecodeError as error:
        assert str(error)
        assert "\n" not in str(error)
        return
    height, width = picture.pixels.shape[:2]
    assert 0 < height * width <= MAX_PIXELS
    assert picture.pixels.dtype == np.uint8
    assert decoded(content).shape == (8, 8, 3)


@settings(max_examples=200, deadline=2000)
@given(
    st.sampled_from([*(content[:12] for _, content in SEEDS), b""]),
    st.binary(max_size=2000),
)
def test_random_bytes_never_crash_the_decoder(start: bytes, rest: bytes) -> None:
    """Bytes from outside, some of which begin like a picture."""
    _result_of(start + rest)


@settings(max_examples=400, deadline=2000)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), max_size=20),
    st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damage_never_crashes_the_decoder(
    seed: tuple[str, bytes], flips: list[tuple[float, int]], kept: float
) -> None:
    """Every format with bits flipped, cut off anywhere: in time, a picture or a reason."""
    content = bytearray(seed[1])
    for place, bit in flips:
        content[int(place * len(content))] ^= 1 << bit
    _result_of(bytes(content[: int(kept * len(content))]))


def test_damage_never_takes_more_memory_than_the_pixel_limit_allows() -> None:
    """In a process that may have 300 MiB beside what it imports, thousands of damaged files."""
    code = """
import random, resource, warnings
warnings.simplefilter("ignore")
from tests.unit.data.test_decode import SEEDS, _result_of
for _, content in SEEDS:
    _result_of(content)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
drawn = random.Random(0)
for _ in range(4000):
    content = bytearray(drawn.choice(SEEDS)[1])
    for _ in range(drawn.randrange(1, 12)):
        # Headers are where sizes stand.
        place = drawn.randrange(min(64, len(content))) if drawn.random() < 0.6 else -1
        content[place if place >= 0 else drawn.randrange(len(content))] = drawn.randrange(256)
    _result_of(bytes(content))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.mark.parametrize(("resize", "columns"), [("fill", 255), ("fit", 0), ("stretch", 255)])
def test_each_way_to_resize_does_what_it_says(resize: Any, columns: int) -> None:
    """A wide white picture: cropped and stretched it stays white, fitted it gets black bars."""
    content = encoded(Image.new("L", (32, 8), 255))

    pixels = decode(content, Decoding((8, 8, 1), resize, MAX_PIXELS))

    assert pixels.shape == (8, 8, 1)
    assert pixels[0, 4, 0] == columns
    assert pixels[4, 4, 0] == 255


@pytest.mark.parametrize("channels", [1, 3])
def test_png_and_back_changes_nothing(channels: int) -> None:
    """The input example of a registered model must be what the store holds."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, channels), dtype=np.uint8)

    np.testing.assert_array_equal(decoded(encode_png(pixels), (8, 8, channels)), pixels)


def many_scans(scans: int) -> bytes:
    """A progressive JPEG of one grey block whose last scan comes again and again."""
    content = encoded(Image.new("L", (8, 8), 128), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : content.rindex(b"\xff\xd9")]
    return content[: content.rindex(b"\xff\xd9")] + last * scans + b"\xff\xd9"


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded() -> None:
    """Each is a pass over the whole picture: some hundred kilobytes would keep a core busy for minutes."""
    photo = Image.effect_noise((64, 64), 50).convert("RGB")

    assert read_picture(encoded(photo, "JPEG", progressive=True), max_pixels=MAX_PIXELS)
    with pytest.raises(DecodeError, match=f"more than {MOST_SCANS} scans"):
        read_picture(many_scans(MOST_SCANS), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("where", ["behind", "inside"])
def test_what_looks_like_a_scan_elsewhere_is_none(where: str) -> None:
    """In the video that a telephone puts behind its photo, or in a preview within the metadata."""
    good = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG", progressive=True)
    noise = b"\xff\xda" * (MOST_SCANS + 1)
    if where == "behind":
        content = good + noise
    else:
        content = good[:2] + b"\xff\xee" + (len(noise) + 2).to_bytes(2) + noise + good[2:]

    assert (
        read_picture(content, max_pixels=MAX_PIXELS).pixels
        == read_picture(good, max_pixels=MAX_PIXELS).pixels
    ).all()


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in SEEDS}))
def test_whatever_damage_pillow_notices_is_noticed(kind: str) -> None:
    """A first load's error that is passed over would leave half a picture, which a second load calls whole.

    Every byte of a small picture of each format is flipped. What Pillow says in a whole load is what we say.
    """
    good = next(content for other, content in SEEDS if other == kind)
    passed_over = []
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 0x10
        content = bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                    if image.width * image.height > MAX_PIXELS:
                        continue
                    image.load()
        except Exception:
            try:
                read_picture(content, max_pixels=MAX_PIXELS)
                passed_over.append(place)
            except DecodeError:
                pass

    assert not passed_over
