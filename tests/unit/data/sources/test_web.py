"""Which addresses are read: what a table from elsewhere names, and where servers lead."""

import time
from pathlib import Path

import pytest

from imgrec.data.sources import sample
from imgrec.data.sources import web as web_of
from imgrec.data.sources.sample import Remote
from imgrec.data.sources.web import checked, own_places
from imgrec.errors import DataError, DecodeError
from tests.unit.data.sources.made import (
    as_csv,
    png,
    stored,
)

ROWS = {
    "local://{private}": "begins with local:// is not read",
    "file://{private}": "begins with file:// is not read",
    "http://{inside}/secret.png": "which data.allow_hosts does not name",
    "memory://x/y.png": "begins with memory:// is not read",
    "away.png": "which data.allow_hosts does not name",
    # What one reader of addresses takes for the host is to another a user's name.
    "http://{inside}\\@{outside}/secret.png": "is no address that can be read",
    "http://{outside}@{inside}/secret.png": "a user's name in it",
    "http://{inside}/ secret.png": "is no address that can be read",
    "http://127.0.0.1:99999/secret.png": "is no address that can be read",
    "http://[::1/secret.png": "is no address that can be read",
    "s3://{outside}/secret.png": "which data.allow_hosts does not name",
}


@pytest.mark.parametrize("row", ROWS)
def test_rows_of_a_table_from_elsewhere_read_nothing_of_here(
    row: str, inside: tuple[list[str], str], outside: tuple[Path, str], tmp_path: Path
) -> None:
    """Else a file of this machine, or a page of its network, ends among the pictures."""
    folder, address = outside
    private = tmp_path / "private.png"
    private.write_bytes(png(1, 999))
    name = Path(as_csv(folder)).name
    with (folder / name).open("a", encoding="utf-8") as file:
        outer = address.removeprefix("http://")
        file.write(row.format(private=private, inside=inside[1], outside=outer) + ",left,train\n")
    store = stored(f"{address}/{name}", tmp_path)
    (rejected,) = store.rejected()

    assert ROWS[row] in rejected.reason
    assert len(store.labels) == 48
    assert inside[0] == []


def test_hosts_that_were_allowed_are_read(
    inside: tuple[list[str], str], outside: tuple[Path, str], tmp_path: Path
) -> None:
    """Named in full, or led to."""
    folder, address = outside
    name = Path(as_csv(folder)).name
    with (folder / name).open("a", encoding="utf-8") as file:
        file.write(f"http://{inside[1]}/secret.png,left,train\naway.png,left,train\n")
    store = stored(f"{address}/{name}", tmp_path, allow_hosts=[inside[1]], allow_leakage=True)

    assert store.rejected() == []
    assert len(store.labels) == 50


def test_a_table_that_leads_inside_is_not_followed(
    inside: tuple[list[str], str], outside: tuple[Path, str], tmp_path: Path
) -> None:
    """The first address is the user's own choice; where it leads is not."""
    _, address = outside
    with pytest.raises(DataError, match="redirected to what lies on"):
        stored(f"{address}/away.csv", tmp_path)
    assert inside[0] == []


def test_an_answer_without_end_is_not_read_to_its_end(
    outside: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fill the memory, or keep a core for ever."""
    monkeypatch.setattr(sample, "MOST_BYTES", 5 << 20)
    monkeypatch.setattr(web_of, "MOST_SECONDS", 1)

    with pytest.raises(DecodeError, match="more than 5 MiB"):
        Remote(f"{outside[1]}/endless.png").read()
    with pytest.raises(DataError, match="not read to its end in 1 s"):
        Remote(f"{outside[1]}/slow.png").read()
    monkeypatch.setattr(web_of, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(sample, "TRIES", 1)
    started = time.monotonic()
    with pytest.raises(DataError, match="cannot be fetched"):
        Remote(f"{outside[1]}/dripping.png").read()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("url", "place", "own"),
    [
        ("http://Images.example.org/a.png", "images.example.org", True),
        ("HTTPS://images.example.org/a.png", "images.example.org:443", True),
        ("http://images.example.org:8080/a.png", "images.example.org", True),
        ("http://images.example.org:8080/a.png", "images.example.org:80", False),
        ("http://[2001:db8::1]:8080/a.png", "[2001:db8::1]", True),
        ("http://[2001:db8::1:8080]/a.png", "[2001:db8::1]", False),
        ("s3a://vault/a.png", "s3://vault", True),
        ("http://vault/a.png", "s3://vault", False),
        ("s3://vault/a.png", "vault", False),
        ("hf://datasets/me/pets@main/a.png", "hf://datasets/me/pets", True),
        ("hf://datasets/me/pets/a.png", "hf://datasets/you/pets", False),
    ],
)
def test_a_place_is_a_host_with_its_port_or_a_bucket_of_its_kind(
    url: str, place: str, own: bool
) -> None:
    """A bucket called as a host inside the network, or another address of IPv6, is another place."""
    if own:
        assert checked(url, frozenset({place})).lower() == url.lower()
        assert checked(url, own_places(url))
    else:
        with pytest.raises(DecodeError, match=r"data\.allow_hosts does not name"):
            checked(url, frozenset({place}))
