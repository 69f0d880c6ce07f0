"""Every kind of source gives the same pictures with the same labels and splits, or says why not."""

import contextlib
import csv
import functools
import http.server
import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from imgrec.config import DataConfig
from imgrec.data.sources import list_samples, open_source, sample
from imgrec.data.sources import parquet as parquet_of
from imgrec.data.sources import web as web_of
from imgrec.data.sources.sample import Remote, Sample
from imgrec.data.sources.web import checked, own_places
from imgrec.data.store import Store, prepare_store
from imgrec.errors import DataError, DecodeError
from tests.conftest import no_progress, picture

CLASSES = ("left", "middle", "right")
Build = Callable[[Path], str]


def png(label: int, index: int) -> bytes:
    buffer = io.BytesIO()
    picture(label, index).save(buffer, "PNG")
    return buffer.getvalue()


def each_picture() -> Iterator[tuple[str, int, int, bytes]]:
    """Split, class, number and content: 12 to train on and 4 to test with, of each class."""
    for split, numbers in (("train", range(12)), ("test", range(12, 16))):
        for label in range(3):
            for number in numbers:
                yield split, label, number, png(label, number)


def as_folder(folder: Path) -> str:
    for split, label, number, content in each_picture():
        path = folder / "photos" / split / CLASSES[label] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder / "photos")


def _rows(folder: Path) -> list[dict[str, str]]:
    as_folder(folder)
    return [
        {
            "path": f"photos/{split}/{CLASSES[label]}/{number:02d}.png",
            "label": CLASSES[label],
            "split": split,
        }
        for split, label, number, _ in each_picture()
    ]


def as_csv(folder: Path) -> str:
    path = folder / "table.csv"
    rows = _rows(folder)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def as_table(folder: Path) -> str:
    path = folder / "table.parquet"
    parquet.write_table(pa.Table.from_pylist(_rows(folder)), path)
    return str(path)


def as_hugging_face(folder: Path) -> str:
    """As `datasets` writes it: a file for each split, labels as numbers, names beside them."""
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    (folder / "hf" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows = [
            {"image": {"bytes": content, "path": f"{number}.png"}, "label": label}
            for of, label, number, content in each_picture()
            if of == split
        ]
        table = pa.Table.from_pylist(rows).replace_schema_metadata(note)
        name = f"{split}-00000-of-00001.parquet"
        parquet.write_table(table, folder / "hf" / "data" / name, row_group_size=7)
    return str(folder / "hf")


def as_shards(folder: Path) -> str:
    """As WebDataset has it: 0001.png beside 0001.cls."""
    (folder / "shards").mkdir()
    for split in ("train", "test"):
        with tarfile.open(folder / "shards" / f"{split}-000.tar", "w") as tar:
            for of, label, number, content in each_picture():
                if of == split:
                    _add(tar, f"{label}_{number:04d}.png", content)
                    _add(tar, f"{label}_{number:04d}.cls", CLASSES[label].encode())
    return str(folder / "shards" / "*.tar")


def as_packed_folder(folder: Path) -> str:
    path = folder / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for split, label, number, content in each_picture():
            _add(tar, f"photos/{split}/{CLASSES[label]}/{number:02d}.png", content)
    return str(path)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


EVERY: tuple[Build, ...] = (
    as_folder,
    as_csv,
    as_table,
    as_hugging_face,
    as_shards,
    as_packed_folder,
)


def stored(source: str, folder: Path, **settings: Any) -> Store:
    config = DataConfig(source=source, **settings)
    return prepare_store(config, folder / "storage", progress=no_progress)


def samples_of(source: str, folder: Path, **settings: Any) -> list[Sample]:
    config = DataConfig(source=source, **settings)
    return list_samples(open_source(source, folder / "downloads"), config)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the folder, which all the others are to be like."""
    folder = tmp_path_factory.mktemp("reference")
    return stored(as_folder(folder), folder)


def refuse_other_data(store: Store, reference: Store) -> None:
    assert store.fingerprint == reference.fingerprint
    assert store.class_names == CLASSES
    assert store.quarantined == 0
    for split in (0, 2):
        ours, theirs = (
            sorted(
                (int(label), image.tobytes())
                for image, label, given in zip(s.images, s.labels, s.given_splits, strict=True)
                if given == split
            )
            for s in (store, reference)
        )
        assert ours == theirs


@pytest.mark.parametrize("build", EVERY, ids=lambda build: build.__name__)
def test_every_kind_of_source_is_the_same_data(
    build: Build, reference: Store, tmp_path: Path
) -> None:
    """The fingerprint is of contents, labels and splits: how they are packed does not matter."""
    refuse_other_data(stored(build(tmp_path), tmp_path), reference)


@pytest.mark.parametrize("build", EVERY, ids=lambda build: build.__name__)
def test_a_source_says_when_it_has_changed(build: Build, tmp_path: Path) -> None:
    """Otherwise the next run would train on what is no longer there."""
    source = build(tmp_path)
    before = open_source(source, tmp_path).state()
    assert open_source(source, tmp_path).state() == before
    files = (path for path in tmp_path.rglob("*") if path.suffix in {".png", ".parquet", ".tar"})
    os.utime(next(files), ns=(0, 0))

    assert open_source(source, tmp_path).state() != before


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and its address on a real web server."""
    folder = tmp_path_factory.mktemp("web")
    handler = functools.partial(_Quiet, directory=str(folder))
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256  # Python's default of 5 makes connections wait for seconds


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("build", [as_csv, as_packed_folder], ids=lambda build: build.__name__)
def test_files_behind_a_url_are_the_same_data(
    build: Build, web: tuple[Path, str], reference: Store, tmp_path: Path
) -> None:
    """A table's relative paths count from the table's address; a tar is fetched once."""
    folder, address = web
    here = folder / build.__name__
    here.mkdir()
    name = Path(build(here)).name

    refuse_other_data(stored(f"{address}/{here.name}/{name}", tmp_path), reference)


class _Asked(_Quiet):
    """Notes what it is asked, and may send the asker on."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", self.server.away)  # type: ignore[attr-defined]
            self.end_headers()
            return
        if self.path.startswith("/endless"):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x" * (1 << 20))
        if self.path.startswith("/dripping"):
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.2)
        if self.path.startswith("/slow"):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.2)
        super().do_GET()

    def do_HEAD(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        super().do_HEAD()


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[tuple[list[str], str]]:
    """A server inside the user's network: what it was asked, and its host."""
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "secret.png").write_bytes(png(0, 999))
    with _Server(("127.0.0.1", 0), functools.partial(_Asked, directory=str(folder))) as server:
        server.asked = asked = []  # type: ignore[attr-defined]
        server.away = "file:///etc/passwd"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield asked, f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def outside(inside: tuple[list[str], str], tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A server elsewhere, whose pages below /away lead inside."""
    folder = tmp_path / "outside"
    folder.mkdir()
    with _Server(("127.0.0.1", 0), functools.partial(_Asked, directory=str(folder))) as server:
        server.asked = []  # type: ignore[attr-defined]
        server.away = f"http://{inside[1]}/secret.png"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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


def test_of_remote_pictures_few_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of hundreds of large ones would fill it."""
    read: list[str] = []
    monkeypatch.setattr(Remote, "_content", lambda self: read.append(self.url) or b"x")
    found = sample.read_all([Remote(f"http://a/{number}") for number in range(256)])

    assert next(found) == b"x"
    assert len(read) <= sample.FETCHED_AT_ONCE + 1
    assert len(list(found)) == 255


def test_rows_of_a_large_group_are_read_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pandas writes up to a million rows as one group; forwards or not, each row is its own."""
    monkeypatch.setattr(parquet_of, "ROWS_AT_ONCE", 3)
    rows = [{"image": {"bytes": b"%d" % row if row != 5 else None}} for row in range(20)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    cells = [parquet_of.Cell(tmp_path / "a.parquet", 0, row, "image") for row in range(20)]

    for row in (0, 1, 4, 19, 2, 2, 18):
        assert cells[row].read() == b"%d" % row
    with pytest.raises(DecodeError, match="holds no bytes"):
        cells[5].read()


def test_a_file_that_cannot_be_fetched_goes_to_quarantine(
    web: tuple[Path, str], tmp_path: Path
) -> None:
    """One dead link in a million must not stop the run, nor be filled with something else."""
    folder, address = web
    here = folder / "dead"
    here.mkdir()
    path = Path(as_csv(here))
    (here / "photos" / "train" / "left" / "03.png").unlink()
    store = stored(f"{address}/dead/{path.name}", tmp_path)

    assert [reject.id for reject in store.rejected()] == ["photos/train/left/03.png"]
    assert "cannot be fetched" in store.rejected()[0].reason


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("http://127.0.0.1:9/table.csv", "cannot be read"),
        ("memory://nothing/here", "memory://: no kind of address that is read"),
        ("nosuch://x/y.csv", "nosuch://: no kind of address that is read"),
        ("photos.tar.gz", "unpack it, or pack it again as plain .tar"),
        ("nowhere.csv", "no such file"),
        ("nowhere/*.tar", "no such file"),
        ("torchvision:NoSuch", "torchvision has no such data set; it has"),
    ],
)
def test_a_source_that_is_not_there_is_refused_in_one_line(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong, where, and the cure."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        samples_of(source, tmp_path)

    assert "\n" not in str(caught.value)


def test_rows_without_label_or_path_go_to_quarantine(tmp_path: Path) -> None:
    """They are counted like every other picture that cannot be used."""
    source = Path(as_csv(tmp_path))
    with source.open("a", encoding="utf-8") as file:
        file.write("photos/train/left/00.png,,train\n,left,train\n")
    reasons = {reject.reason for reject in stored(str(source), tmp_path).rejected()}

    assert reasons == {"it has no label", "the manifest gives no path"}


def test_a_label_without_a_name_goes_to_quarantine(tmp_path: Path) -> None:
    """A number beyond the names of the classes: some row of some other version of the data."""
    folder = Path(as_hugging_face(tmp_path))
    path = folder / "data" / "train-00000-of-00001.parquet"
    table = parquet.read_table(path)
    labels = table["label"].to_pylist()
    labels[0], labels[1] = 7, None
    table = table.set_column(1, "label", pa.array(labels))
    parquet.write_table(table, path)
    reasons = {reject.reason for reject in stored(str(folder), tmp_path).rejected()}

    assert reasons == {"label 7 is not one of the 3 named classes", "the row gives no label"}


def test_labels_of_shards_come_from_json_too(tmp_path: Path) -> None:
    """And a file beside a picture that cannot be read makes the picture unusable, not the shard."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(6):
            _add(tar, f"{number}.png", png(number % 3, number))
            label = json.dumps({"label": CLASSES[number % 3]}) if number < 5 else "{"
            _add(tar, f"{number}.json", label.encode())
    found = samples_of(str(tmp_path / "a.tar"), tmp_path)

    assert [sample.label for sample in found[:3]] == list(CLASSES)
    assert "json file cannot be read" in found[5].content.reason  # type: ignore[attr-defined]


def test_a_class_map_leaves_the_others_out(tmp_path: Path) -> None:
    """data.classes names what is wanted; what is not is counted, not lost in silence."""
    source = as_folder(tmp_path)
    store = stored(source, tmp_path, classes=("left", "right"))

    assert store.class_names == ("left", "right")
    assert store.quarantined == 16
    assert "class middle is not in data.classes" in store.rejected()[0].reason
    with pytest.raises(DataError, match=r"no picture of centre, which data\.classes names"):
        samples_of(source, tmp_path, classes=("left", "centre"))


def test_a_test_split_that_lacks_a_class_is_an_error(tmp_path: Path) -> None:
    """Scores over some of the classes would be taken for scores over all."""
    source = Path(as_folder(tmp_path))
    for path in (source / "test" / "left").iterdir():
        path.unlink()
    (source / "test" / "left").rmdir()

    with pytest.raises(DataError, match="test lacks classes that train has: left"):
        samples_of(str(source), tmp_path)


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


def test_pictures_of_one_name_and_names_with_dots_are_all_there(tmp_path: Path) -> None:
    """WebDataset cuts names at the first dot; pictures of a packed folder must not vanish for it."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(4):
            _add(tar, f"x/IMG.{number}.png", png(0, number))
            _add(tar, f"y/IMG.{number}.png", png(1, number))
        _add(tar, "y/IMG.3.txt", b"a caption")
        link = tarfile.TarInfo("y/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "IMG.0.png"
        tar.addfile(link)
    found = samples_of(str(tmp_path / "a.tar"), tmp_path)

    assert len(found) == 9
    assert "a link" in found[-1].content.reason  # type: ignore[attr-defined]


def test_the_same_tree_has_the_same_classes_packed_or_not(tmp_path: Path) -> None:
    """A class is the first folder, however deep its pictures lie."""
    for place in ("photos/cat/front", "photos/cat", "photos/dog/a/b"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        picture(0, 0).save(tmp_path / place / "1.png")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(tmp_path / "photos", "photos")
    unpacked, packed = (
        [sample.label for sample in samples_of(str(tmp_path / name), tmp_path)]
        for name in ("photos", "photos.tar")
    )

    assert sorted(packed) == sorted(unpacked) == ["cat", "cat", "dog"]


@pytest.mark.parametrize(
    ("label", "reason"),
    [("a\nb", "is not text in one line"), ("\ud800", "is not text in one line")],
)
def test_labels_that_are_no_text_go_to_quarantine(label: str, reason: str, tmp_path: Path) -> None:
    """They could not be written into a model, which would be known only after training."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(4):
            _add(tar, f"{number}.png", png(number % 2, number))
            text = label if number == 3 else CLASSES[number % 2]
            _add(tar, f"{number}.json", json.dumps({"label": text}).encode())
    store = stored(str(tmp_path / "a.tar"), tmp_path)

    (rejected,) = store.rejected()
    assert reason in rejected.reason


def test_what_is_no_file_and_what_is_no_path_go_to_quarantine(tmp_path: Path) -> None:
    """To open a pipe would wait for ever."""
    source = Path(as_csv(tmp_path))
    os.mkfifo(tmp_path / "pipe.png")
    with source.open("a", encoding="utf-8") as file:
        file.write("pipe.png,left,train\n/dev/zero,left,train\nfile:///etc/passwd,left,train\n")
    reasons = {reject.id: reject.reason for reject in stored(str(source), tmp_path).rejected()}

    assert reasons["pipe.png"] == reasons["/dev/zero"]
    assert "not a file" in reasons["pipe.png"]
    assert "without file:" in reasons["file:///etc/passwd"]


@pytest.mark.parametrize("splits", [("",), ("train/", "test/")])
@pytest.mark.parametrize("packed", [False, True])
def test_pictures_beside_class_folders_go_to_quarantine(
    splits: tuple[str, ...], packed: bool, tmp_path: Path
) -> None:
    """They are of no class, and somebody forgot them there; other files are nobody's business."""
    folder = tmp_path / "photos"
    for split in splits:
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(6):
                (folder / split / name / f"{number}.png").write_bytes(
                    png(label, number + len(split))
                )
    strays = {"stray.jpg", *(f"{split}stray.png" for split in splits)}
    for name in strays:
        (folder / name).write_bytes(png(0, 0))
    before = open_source(str(folder), tmp_path).state()
    if packed:
        with tarfile.open(tmp_path / "photos.tar", "w") as tar:
            tar.add(folder, ".")
    else:
        (folder / "license.txt").write_text("as you like")
    store = stored(f"{folder}.tar" if packed else str(folder), tmp_path)

    assert store.class_names == CLASSES
    assert {reject.id.removeprefix("photos.tar:") for reject in store.rejected()} == strays
    if not packed:
        assert open_source(str(folder), tmp_path).state() == before
        (folder / "stray.jpg").unlink()
        assert open_source(str(folder), tmp_path).state() != before


def test_a_folder_with_classes_and_shards_is_refused(tmp_path: Path) -> None:
    """Which of the two was meant only a person can tell."""
    folder = Path(as_folder(tmp_path)) / "train"
    with tarfile.open(folder / "old.tar", "w") as tar:
        _add(tar, "x/1.png", png(0, 0))

    with pytest.raises(DataError, match=r"has class folders \(left\) and old.tar; name the file"):
        samples_of(str(folder), tmp_path)


def test_shards_in_folders_of_the_same_names_keep_their_own(
    reference: Store, tmp_path: Path
) -> None:
    """train/0.tar and test/0.tar: ids must tell them apart, and the folder is the split."""
    for split in ("train", "test"):
        (tmp_path / "web" / split).mkdir(parents=True)
        with tarfile.open(tmp_path / "web" / split / "0.tar", "w") as tar:
            for of, label, number, content in each_picture():
                if of == split:
                    _add(tar, f"{CLASSES[label]}/{number}.png", content)
    store = stored(str(tmp_path / "web"), tmp_path)

    refuse_other_data(store, reference)
    assert len(set(store.ids())) == 48


def test_a_test_split_that_cannot_be_read_stops_the_run(tmp_path: Path) -> None:
    """Otherwise another one would be cut from train, or a class would go unscored."""
    source = Path(as_folder(tmp_path))
    for path in (source / "test" / "left").iterdir():
        path.write_bytes(b"git-lfs pointer")

    with pytest.raises(DataError, match="class left: every one of its 4 files in test is unread"):
        stored(str(source), tmp_path)


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.8])
def test_a_tar_that_was_cut_off_is_refused(kept: float, tmp_path: Path) -> None:
    """Python's tarfile takes a cut between two members for the end, and pictures would be missing."""
    path = Path(as_packed_folder(tmp_path))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) // 512 * 512])

    with pytest.raises(DataError, match="ends in the middle"):
        samples_of(str(path), tmp_path)
