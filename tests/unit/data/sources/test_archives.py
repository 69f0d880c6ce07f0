"""Archives as people have them: zips, compressed tars, WebDataset samples with several pictures, lists of names."""

import json
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import py7zr
import pyarrow as pa
import pytest
from pyarrow import parquet

from imgrec.config import DataConfig
from imgrec.data.findings import Findings
from imgrec.data.sources import archive, compressed, members, open_source, saved
from imgrec.data.sources.listing import list_samples
from imgrec.data.sources.sample import Sample
from imgrec.data.store import prepare_store
from imgrec.errors import DataError, DecodeError
from tests.conftest import no_progress
from tests.unit.data.sources.made import add, png


def read(source: Path | str, **about: object) -> list[Sample]:
    config = DataConfig(source=str(source), **about)  # type: ignore[arg-type]
    return list_samples(open_source(config, Path(source).parent / "downloads"), config)


def labels(samples: list[Sample]) -> Counter[str]:
    """Of the samples that can be read."""
    return Counter(one.label for one in samples if one.content.read())


FILES = [
    (f"photos/{label}/{number}.png", png(number, number))
    for label in ("cat", "dog")
    for number in range(3)
]
BOTH = {"cat": 3, "dog": 3}


def test_pictures_of_a_zip_are_read_where_they_lie(tmp_path: Path) -> None:
    """Stored or compressed; what needs a password, or is a link, is left out with the reason."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for number, (name, content) in enumerate(FILES):
            packed.writestr(
                name, content, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            )
        link = zipfile.ZipInfo("photos/cat/link.png")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "0.png")
    samples = read(tmp_path / "a.zip")
    (odd,) = (one for one in samples if one.id.endswith("link.png"))

    assert labels([one for one in samples if one is not odd]) == BOTH
    assert [one.content.read() for one in samples if one is not odd] == [
        content for _, content in FILES
    ]
    with pytest.raises(DecodeError, match="a link or a device"):
        odd.content.read()


def test_a_zip_that_is_cut_off_or_changed_is_refused(tmp_path: Path) -> None:
    """In one line, and a changed picture when it is read."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as packed:
        for name, content in FILES:
            packed.writestr(name, content)
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    place = whole.index(FILES[2][1]) + 60
    (tmp_path / "changed.zip").write_bytes(
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    )

    with pytest.raises(
        DataError, match=r"cut.zip: cannot be read as zip .*; copy or pack it again"
    ):
        read(tmp_path / "cut.zip")
    changed = read(tmp_path / "changed.zip")[2]
    with pytest.raises(DecodeError, match="Bad CRC-32"):
        changed.content.read()


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "tar.xz", "tar.bz2"])
def test_a_compressed_tar_is_unpacked_once(ending: str, tmp_path: Path) -> None:
    """Parts of it could not be read by themselves."""
    path = tmp_path / f"a.{ending}"
    with tarfile.open(path, "w:" + {"tgz": "gz"}.get(ending, ending[4:])) as tar:  # type: ignore[call-overload]
        for name, content in FILES:
            add(tar, name, content)
    first = read(path)
    (unpacked,) = (tmp_path / "downloads").rglob("a.tar")
    before = unpacked.stat().st_mtime_ns

    assert labels(first) == BOTH
    assert labels(read(path)) == BOTH
    assert unpacked.stat().st_mtime_ns == before


def seven_zip(path: Path, files: Sequence[tuple[str, bytes]], password: str | None = None) -> Path:
    with py7zr.SevenZipFile(path, "w", password=password) as archive:
        for name, content in files:
            archive.writestr(content, name)
    return path


def test_an_archive_of_seven_zip_is_unpacked_once(tmp_path: Path) -> None:
    """What is in it is read as a tar of it would be."""
    path = seven_zip(tmp_path / "a.7z", FILES)
    first = read(path)

    assert labels(first) == BOTH
    assert {one.id: one.content.read() for one in first} == {
        f"a.7z:{name}": content for name, content in FILES
    }
    assert [file.name for file in (tmp_path / "downloads").rglob("*") if file.is_file()] == [
        "a.tar"
    ]


def test_an_archive_of_seven_zip_that_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged, with a password, far too large, with names that leave the folder, or without the extra."""
    whole = seven_zip(tmp_path / "whole.7z", FILES)
    content = whole.read_bytes()
    (tmp_path / "cut.7z").write_bytes(content[: len(content) // 2])
    (tmp_path / "changed.7z").write_bytes(content[:400] + b"xx" + content[402:])
    seven_zip(tmp_path / "locked.7z", FILES, password="secret")
    reasons = {"cut": "cannot be unpacked", "changed": "cannot be unpacked"}
    reasons |= {"locked": "needs a password; unpack it yourself"}
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=rf"{name}\.7z: {reason}"):
            read(tmp_path / f"{name}.7z")
    monkeypatch.setattr(compressed, "LEAST_SUSPECT", 1 << 20)
    seven_zip(tmp_path / "large.7z", [("photos/cat/0.png", bytes(20 << 20))])
    with pytest.raises(DataError, match="unpack it yourself, and give the folder"):
        read(tmp_path / "large.7z")
    with monkeypatch.context() as writer:
        writer.setattr(py7zr.py7zr, "check_archive_path", lambda _name: True)
        leaving = seven_zip(tmp_path / "leaving.7z", [("../../0.png", b"x")])
    with pytest.raises(DataError, match=r"leaving\.7z: cannot be unpacked"):
        read(leaving)
    monkeypatch.setitem(sys.modules, "py7zr", None)
    with pytest.raises(DataError, match=r"\.7z is read by imgrec\[7z\]; install that"):
        read(whole)
    assert not [file for file in (tmp_path / "downloads").rglob("*") if file.is_file()]


def test_what_becomes_far_larger_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file was made to fill the disk."""
    monkeypatch.setattr(compressed, "LEAST_SUSPECT", 1 << 20)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        add(tar, "photos/cat/0.png", bytes(20 << 20))

    with pytest.raises(DataError, match="unpack it yourself, and give the folder"):
        read(tmp_path / "a.tar.gz")
    assert not [file for file in (tmp_path / "downloads").rglob("*") if file.is_file()]
    (tmp_path / "b.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:2000])
    with pytest.raises(DataError, match=r"b\.tar\.gz: cannot be unpacked"):
        read(tmp_path / "b.tar.gz")


def test_names_with_dots_do_not_get_the_labels_of_others(tmp_path: Path) -> None:
    """In WebDataset a name ends at its first dot: two labels for one sample are a mistake, and named."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(4):
            add(tar, f"img v1.{number}.jpg", png(number % 2, number))
            add(tar, f"img v1.{number}.cls", str(number % 2).encode())

    with pytest.raises(
        DataError, match=r"img v1.0.cls and img v1.1.cls belong to one sample, img v1"
    ):
        read(tmp_path / "a.tar")


def test_of_several_pictures_of_a_sample_the_ending_says_which(tmp_path: Path) -> None:
    """Left and right eye have one label: which of them is meant, a person says."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(4):
            for eye in ("left", "right"):
                add(tar, f"{number}.{eye}.png", png(number % 2, number))
            add(tar, f"{number}.cls", str(number % 2).encode())

    with pytest.raises(
        DataError, match=r"sample 0 has several pictures .* data\.image_ending = 'left.png'"
    ):
        read(tmp_path / "a.tar")
    samples = read(tmp_path / "a.tar", image_ending="right.png")
    assert [one.id for one in samples] == [f"a.tar:{number}.right.png" for number in range(4)]


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_names_say_the_class_by_a_pattern(form: str, tmp_path: Path) -> None:
    """A flat folder whose names say it gets the hint, filled in; what does not match is told."""
    names = [f"{label}.{number}.png" for label in ("cat", "great dane") for number in range(3)]
    (tmp_path / "flat").mkdir()
    for number, name in enumerate([*names, "readme.png"]):
        (tmp_path / "flat" / name).write_bytes(png(0, number))
    source = tmp_path / "flat"
    with pytest.raises(DataError, match="no class folder in it") as caught:
        read(source)
    if form == "tar":
        source = tmp_path / "flat.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(tmp_path / "flat", "flat")
    assert "set data.label_pattern = '(?P<label>" not in str(caught.value)  # readme is one of seven
    (tmp_path / "flat" / "readme.png").unlink()
    with pytest.raises(DataError, match="finds cat, great dane in their names"):
        read(tmp_path / "flat")
    samples = read(source, label_pattern=r"(?P<label>[a-z ]+)\.\d+\.png$")

    assert labels([one for one in samples if one.label]) == {"cat": 3, "great dane": 3}
    with pytest.raises(DataError, match=r"no path matches data\.label_pattern"):
        read(source, label_pattern="(?P<label>bird)")


SETTINGS: list[tuple[dict[str, object], Callable[[Path], str]]] = [
    ({"columns": {"path": "a"}}, str),
    ({"image_ending": "png"}, str),
    ({"label_from": "leaf"}, lambda _: "digits"),
    ({"label_pattern": "(?P<label>a)"}, lambda _: "digits"),
]


@pytest.mark.parametrize(("setting", "source"), SETTINGS)
def test_a_setting_without_effect_is_refused(
    setting: dict[str, object], source: Callable[[Path], str], tmp_path: Path
) -> None:
    """It was meant for another kind of source."""
    for name, content in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=rf"data\.{next(iter(setting))} has no effect on"):
        read(source(tmp_path / "photos"), **setting)


@pytest.mark.parametrize("column", ["image", "jpg_bytes"])
def test_a_column_of_plain_bytes_holds_the_pictures(column: str, tmp_path: Path) -> None:
    """As Spark and pandas write them, without Hugging Face's struct."""
    rows = [{column: content, "label": name.split("/")[1]} for name, content in FILES]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    samples = read(tmp_path / "a.parquet")

    assert labels(samples) == BOTH
    assert [one.content.read() for one in samples] == [content for _, content in FILES]


@pytest.mark.parametrize("splits", [False, True])
def test_what_hugging_face_saved_is_read(splits: bool, tmp_path: Path) -> None:
    """`save_to_disk`: Arrow files, with the names of classes beside the numbers."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    }
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    places = ["train", "test"] if splits else [""]
    for place in places:
        folder = tmp_path / "saved" / place
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {"image": {"bytes": content, "path": None}, "label": name.count("dog/")}
            for name, content in FILES
        ]
        table = pa.Table.from_pylist(rows).replace_schema_metadata(note)
        with (
            pa.OSFile(str(folder / "data-0.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            for batch in table.to_batches(max_chunksize=4):
                writer.write_batch(batch)
        (folder / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": "data-0.arrow"}]})
        )
        (folder / "dataset_info.json").write_text("{}")
    if splits:
        (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": places}))
    samples = read(tmp_path / "saved")

    assert labels(samples) == {label: count * len(places) for label, count in BOTH.items()}
    assert {one.split for one in samples} == ({"train", "test"} if splits else {None})
    assert samples[4].content.read() == FILES[4][1]
    (tmp_path / "saved" / places[0] / "data-0.arrow").write_bytes(b"x")
    saved._table.cache_clear()
    with pytest.raises(DataError, match=r"data-0\.arrow: cannot be read as Arrow"):
        read(tmp_path / "saved")


def test_what_lies_beside_folders_in_an_archive_is_as_it_is_in_a_folder(tmp_path: Path) -> None:
    """A licence is no picture; pictures without a class folder beside train are left alone."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in FILES:
            add(tar, f"set/train/{name[7:]}", content)
        add(tar, "set/LICENSE.md", b"free")
        add(tar, "set/test/1.png", png(0, 9))
        add(tar, "set/stray.png", png(0, 10))
    samples = read(tmp_path / "a.tar")

    assert labels([one for one in samples if one.label]) == BOTH
    assert [one.id for one in samples if not one.label] == ["a.tar:set/stray.png"]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_splits_of_archives_are_those_of_their_folders_or_names(
    ending: str, tmp_path: Path
) -> None:
    """Also where they are unpacked elsewhere; and their ids say where they came from."""
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        with tarfile.open(
            tmp_path / "set" / split / f"0.{ending}", "w:gz" if "gz" in ending else "w"
        ) as tar:
            for name, content in FILES:
                add(tar, name, content)
    samples = read(tmp_path / "set" / "*" / f"0.{ending}")

    assert {(one.id.partition("/")[0], one.split) for one in samples} == {
        ("train", "train"),
        ("test", "test"),
    }
    assert samples[0].id.startswith(f"test/0.{ending}:photos/cat/")


def test_many_shards_are_told_in_a_line_and_are_no_groups(tmp_path: Path) -> None:
    """ImageNet comes in a hundred of them: their names are of nobody's patients, and fill no screen."""
    for shard in range(12):
        with tarfile.open(tmp_path / f"train-{shard:05d}.tar", "w") as tar:
            for number in range(4):
                add(tar, f"{shard}{number}.png", png(number % 2, 4 * shard + number))
                add(tar, f"{shard}{number}.cls", str(number % 2).encode())
    config = DataConfig(source=str(tmp_path / "*.tar"), near_duplicates=0)
    store = prepare_store(config, tmp_path / "storage", progress=no_progress)
    findings = Findings(store, allow_leakage=False)

    assert store.reading
    assert store.reading.splits == {"train": "12 archives, train-00000.tar to train-00011.tar"}
    assert not any("look like" in problem.text for problem in findings.problems)


def shards(folder: Path, count: int) -> str:
    for shard in range(count):
        with tarfile.open(folder / f"{shard:02d}.tar", "w") as tar:
            for number in range(3):
                add(tar, f"photos/{number % 2}/{shard}{number}.png", png(shard, number))
    return str(folder / "*.tar")


def test_the_lists_of_many_archives_are_read_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same samples in the same order as one after the other, and somebody hears how far it is."""
    config = DataConfig(source=shards(tmp_path, 6), decode_workers=2)
    told: list[tuple[str, int, int]] = []
    source = open_source(config, tmp_path, lambda *how_far: told.append(how_far))
    together = list_samples(source, config)
    monkeypatch.setattr(archive, "LEAST_SHARED", 7)
    one_by_one = list_samples(open_source(config, tmp_path), config)

    assert together == one_by_one
    assert [one.content.read() for one in together] == [one.content.read() for one in one_by_one]
    assert told == [("reading lists of archives", done, 6) for done in range(1, 7)]


def test_one_archive_of_many_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """It is named, whichever process found it."""
    source = shards(tmp_path, 6)
    whole = (tmp_path / "03.tar").read_bytes()
    (tmp_path / "03.tar").write_bytes(whole[:1200])
    with pytest.raises(DataError, match=r"03\.tar: ends in the middle; copy or pack it again"):
        read(source)


def test_samples_with_labels_keep_the_splits_of_their_folders(tmp_path: Path) -> None:
    """WebDataset in folders: what .cls says is the class, what the folder says is the split."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for split in ("train", "test"):
            for number in range(4):
                add(tar, f"{split}/{number}.png", png(number % 2, number))
                add(tar, f"{split}/{number}.cls", str(number % 2).encode())
    found = Counter((one.label, one.split) for one in read(tmp_path / "a.tar"))

    assert found == {(label, split): 2 for label in "01" for split in ("train", "test")}


@pytest.mark.parametrize("place", ["", "train"])
def test_an_archive_beside_folders_does_not_stand_for_them(place: str, tmp_path: Path) -> None:
    """Kaggle's archive.zip lies beside what it was unpacked to."""
    for name, content in FILES:
        for split in ("train", "test"):
            path = tmp_path / "set" / split / name[7:]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    with zipfile.ZipFile(tmp_path / "set" / place / "archive.zip", "w") as packed:
        packed.writestr("cat/0.png", png(0, 0))

    with pytest.raises(
        DataError, match=r"has class folders \(.*cat\) and archive\.zip; name the file"
    ):
        read(tmp_path / "set")


def test_tars_and_zips_in_one_folder_are_read_together(tmp_path: Path) -> None:
    """One of them is not passed over."""
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "train.tar", "w") as tar:
        for name, content in FILES:
            add(tar, name, content)
    with zipfile.ZipFile(tmp_path / "set" / "test.zip", "w") as packed:
        for name, content in FILES:
            packed.writestr(name, content)

    assert {one.split for one in read(tmp_path / "set")} == {"train", "test"}


def test_names_of_zips_are_what_whoever_packed_them_wrote(tmp_path: Path) -> None:
    """Windows in China packs names in GBK, and old programs with backslashes."""
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as packed:
        for label in ("cat", "dog"):
            packed.writestr(f"{label}x0.png", png(0, 0))
    slashes = (
        (tmp_path / "b.zip").read_bytes().replace(b"catx0", b"cat\\0").replace(b"dogx0", b"dog\\0")
    )
    (tmp_path / "b.zip").write_bytes(slashes)

    assert labels(read(tmp_path / "b.zip")) == {"cat": 1, "dog": 1}
    assert members._names_in(
        [
            zipfile.ZipInfo(f"{label}/1.png".encode("gbk").decode("cp437"))
            for label in ("小猫", "大狗")
        ]
    ) == ["小猫/1.png", "大狗/1.png"]
    assert members._names_in([zipfile.ZipInfo("café/1.png".encode().decode("cp437"))]) == [
        "café/1.png"
    ]
    assert members._names_in([zipfile.ZipInfo("café/1.png")]) == ["café/1.png"]


def test_a_damaged_member_is_left_out_and_not_the_end(tmp_path: Path) -> None:
    """Whatever the library that unpacks it raises."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in FILES:
            packed.writestr(name, content)
    whole = bytearray((tmp_path / "a.zip").read_bytes())
    start = whole.index(FILES[0][0].encode()) + len(FILES[0][0])
    whole[start : start + 40] = b"\xff" * 40
    (tmp_path / "a.zip").write_bytes(whole)
    samples = read(tmp_path / "a.zip")

    with pytest.raises(DecodeError, match="cannot be read"):
        samples[0].content.read()
    assert samples[1].content.read() == FILES[1][1]


def test_a_picture_without_the_label_that_others_have_is_left_out(tmp_path: Path) -> None:
    """Its folder is no class, and one such picture does not stop the run."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(5):
            add(tar, f"train/{number}.png", png(number % 2, number))
            if number < 4:
                add(tar, f"train/{number}.cls", str(number % 2).encode())
    samples = read(tmp_path / "a.tar")

    assert labels(samples[:4]) == {"0": 2, "1": 2}
    with pytest.raises(DecodeError, match="it has no label"):
        samples[4].content.read()
