"""What a file that is no picture is instead, by its first bytes: what people find in folders of downloaded pictures."""

SAMPLE = 1024
STARTS = (
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a pointer of Git LFS; git lfs pull brings the picture"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"\x00\x00\x01\xba", "a video"),
    (b"PK\x03\x04", "a zip"),
    (b"\x1f\x8b", "a gzip file"),
    (b"8BPS", "a Photoshop file"),
)
VIDEO_BRANDS = (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"M4V ", b"qt  ", b"3gp")


def kind_of(content: bytes) -> str:
    """A few words, `a PDF`; empty where nothing is known of it."""
    known = [kind for start, kind in STARTS if content.startswith(start)]
    film = content[4:8] == b"ftyp" and content[8:12].startswith(VIDEO_BRANDS)
    if film or (content[:4], content[8:12]) == (b"RIFF", b"AVI "):
        known.append("a video")
    text = content[:SAMPLE].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        known.append("a drawing (SVG)")
    elif text.startswith((b"<!doctype html", b"<html", b"<head")):
        known.append("a web page")
    elif text.startswith((b"{", b"[", b"<?xml")):
        known.append("a text file")
    return known[0] if known else ""
