"""What a scan finds: duplicates, leakage, classes, odd pictures; and what stops a run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut, chelsea

from imgrec.config import DataConfig
from imgrec.data.content import InMemoryPixels
from imgrec.data.duplicates import groups_of, near_pairs
from imgrec.data.findings import Findings
from imgrec.data.look import THUMBNAIL, look_at, perceptual_hashes
from imgrec.data.splits import make_splits
from imgrec.data.store import Store, find_store, prepare_store
from imgrec.errors import DataError
from imgrec.evaluation.data_page import data_page
from tests.conftest import no_progress

MakePhotos = Callable[..., Path]


@pytest.fixture
def make_photos(tmp_path: Path) -> MakePhotos:
    """A function that writes different parts of two photographs as two classes."""

    def make(splits: tuple[str, ...] = ("",), count: int = 12) -> Path:
        folder = tmp_path / "photos"
        for place, split in enumerate(splits):
            for name, photo in (("cat", chelsea()), ("woman", astronaut())):
                target = folder / split / name
                target.mkdir(parents=True)
                for number in range(count):
                    top, left = 30 * (number // 6) + 17 * place, 40 * (number % 6)
                    part = photo[top : top + 90, left : left + 90]
                    Image.fromarray(part).save(target / f"{number:02d}.png")
        return folder

    return make


def found_in(folder: Path, **settings: object) -> Findings:
    config = DataConfig(source=str(folder), **settings)
    store = prepare_store(config, folder.parent / "storage", progress=no_progress)
    return Findings(store, config.allow_leakage)


def texts(findings: Findings, level: str) -> list[str]:
    return [problem.text for problem in findings.problems if problem.level == level]


def test_good_data_have_no_problem(make_photos: MakePhotos) -> None:
    """A tool that warns of everything is not read."""
    findings = found_in(make_photos(count=24))

    assert findings.problems == []
    assert findings.usable


def test_the_same_picture_in_train_and_test_stops_a_run(make_photos: MakePhotos) -> None:
    """Also under another name and in another format: what counts are the pixels."""
    folder = make_photos(("train", "test"), count=24)
    Image.open(folder / "train" / "cat" / "03.png").save(folder / "test" / "cat" / "zz.bmp")
    findings = found_in(folder)

    (text,) = texts(findings, "error")
    assert "1 picture in train and in test" in text
    assert "test/cat/zz.bmp = train/cat/03.png" in text
    assert "data.allow_leakage = true" in text
    with pytest.raises(DataError, match="in train and in test"):
        findings.refuse_unusable("photos")

    allowed = found_in(folder, allow_leakage=True)
    assert allowed.usable
    assert any("in train and in test" in text for text in texts(allowed, "warning"))


def test_a_picture_in_two_classes_is_a_warning(make_photos: MakePhotos) -> None:
    """One of its labels is wrong, but which only a person can tell."""
    folder = make_photos(count=24)
    shutil.copy(folder / "cat" / "03.png", folder / "woman" / "zz.png")
    (text,) = texts(found_in(folder), "warning")

    assert "in several classes" in text
    assert "cat/03.png = woman/zz.png" in text


def test_a_compressed_copy_is_a_near_duplicate(make_photos: MakePhotos) -> None:
    """Other bytes and other pixels, but the same picture to a person."""
    folder = make_photos(count=24)
    Image.open(folder / "cat" / "03.png").save(folder / "cat" / "zz.jpg", quality=40)
    findings = found_in(folder)
    (pair,) = findings.duplicates

    assert (pair.exact, pair.kind) == (False, "same class")
    assert [findings.ids[row] for row in pair.rows] == ["cat/03.png", "cat/zz.jpg"]
    assert found_in(folder, near_duplicates=0).duplicates == []


def test_duplicates_stay_in_one_split(make_photos: MakePhotos) -> None:
    """Otherwise a random cut would put the answer to a test question into train."""
    folder = make_photos(count=40)
    for number in range(0, 40, 2):
        part = Image.open(folder / "cat" / f"{number:02d}.png")
        part.save(folder / "cat" / f"{number:02d} copy.png")
        part.save(folder / "cat" / f"{number:02d} small.jpg", quality=50)
    findings = found_in(folder)
    store = findings.store
    for seed in range(5):
        splits = make_splits(store, DataConfig(split_seed=seed))
        groups = [
            set(store.groups[rows].tolist()) for rows in (splits.train, splits.val, splits.test)
        ]

        assert not groups[0] & groups[1]
        assert not groups[0] & groups[2]
        assert not groups[1] & groups[2]
        assert 0.1 < len(splits.test) / len(store.labels) < 0.3


def test_small_and_uneven_classes_are_told(make_photos: MakePhotos) -> None:
    """With what will be done about it."""
    folder = make_photos(count=24)
    for path in sorted((folder / "cat").iterdir())[2:]:
        path.unlink()
    findings = found_in(folder)

    assert (
        "too few different pictures for train, val and test: cat" in texts(findings, "warning")[0]
    )
    assert "uneven, 12 to 1: woman has 24, cat has 2" in texts(findings, "note")[0]
    assert findings.imbalance == 12


def test_a_class_of_one_burst_is_told(make_photos: MakePhotos) -> None:
    """Fifty pictures that look alike are one: they stay together, so nothing is left to test with."""
    folder = make_photos(count=24)
    part = Image.open(folder / "cat" / "00.png").copy()
    for number, path in enumerate(sorted((folder / "cat").iterdir())):
        path.unlink()
        part.save(folder / "cat" / f"burst {number}.jpg", quality=60 + number)

    assert "too few different pictures" in texts(found_in(folder), "warning")[0]


def test_names_with_dollars_are_drawn(make_photos: MakePhotos) -> None:
    """Matplotlib would take what is between two for a formula, and refuse it."""
    folder = make_photos(count=24)
    (folder / "cat").rename(folder / "$5_$10")

    assert "$5_$10" in data_page(found_in(folder), "photos")


def test_a_picture_of_test_that_is_in_what_has_no_split_is_leakage_too(
    make_photos: MakePhotos,
) -> None:
    """Where only test is given, all else will be train."""
    folder = make_photos(count=24)
    rows = [
        (f"{name}/{number:02d}.png", name, "test" if number < 4 else "")
        for name in ("cat", "woman")
        for number in range(24)
    ]
    shutil.copy(folder / "cat" / "00.png", folder / "cat" / "20.png")
    table = folder / "table.csv"
    lines = ["path,label,split", *(",".join(row) for row in rows)]
    table.write_text("\n".join(lines))

    assert "in train and in test" in texts(found_in(table), "error")[0]


def test_two_pictures_that_change_names_are_another_store(make_photos: MakePhotos) -> None:
    """What is said of a picture must be said under its name of now."""
    folder = make_photos(count=24)
    Image.new("RGB", (90, 90)).save(folder / "cat" / "zz.png")
    before = found_in(folder)
    (folder / "cat" / "00.png").rename(folder / "cat" / "tmp.png")
    (folder / "cat" / "zz.png").rename(folder / "cat" / "00.png")
    (folder / "cat" / "tmp.png").rename(folder / "cat" / "zz.png")
    after = found_in(folder)

    assert after.store.fingerprint == before.store.fingerprint
    assert [before.ids[row] for row, _ in before.odd] == ["cat/zz.png"]
    assert [after.ids[row] for row, _ in after.odd] == ["cat/00.png"]


def test_odd_pictures_are_told(make_photos: MakePhotos) -> None:
    """Blank, a strip, several frames."""
    folder = make_photos(count=24)
    Image.new("RGB", (90, 90), "white").save(folder / "cat" / "blank.png")
    Image.fromarray(astronaut()[:10, :90]).save(folder / "cat" / "strip.png")
    frames = [Image.fromarray(chelsea()[top : top + 90, 40:130]) for top in (0, 50)]
    frames[0].save(folder / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    findings = found_in(folder)

    odd = {findings.ids[row]: reason for row, reason in findings.odd}
    assert odd["cat/blank.png"] == "of one colour"
    assert "cat/strip.png" in odd
    assert any("1 file with several frames" in text for text in texts(findings, "note"))


def test_json_and_page_hold_what_was_found(make_photos: MakePhotos) -> None:
    """For scripts and for people; names of files must not become tags of the page."""
    folder = make_photos(count=24)
    (folder / "cat" / "<script>.png").write_bytes(b"")
    shutil.copy(folder / "cat" / "03.png", folder / "woman" / "zz.png")
    findings = found_in(folder)
    content = findings.as_json()
    page = data_page(findings, str(folder))

    assert content["classes"]["woman"]["unsplit"] == 25
    assert content["quarantined"] == [
        {"id": "cat/<script>.png", "label": "cat", "reason": "empty file"}
    ]
    assert content["duplicates"][0]["kind"] == "other class"
    assert content["fingerprint"] == findings.store.fingerprint
    assert "&lt;script&gt;.png" in page
    assert "<script>" not in page
    assert "empty file" in page
    assert "in several classes" in page
    assert page.count("data:image/png;base64,") > 3


def test_a_source_that_has_not_changed_is_not_read_again(make_photos: MakePhotos) -> None:
    """A hundred gigabytes take an hour to read, and their names and times a second."""
    folder = make_photos(count=24)
    config = DataConfig(source=str(folder))
    storage = folder.parent / "storage"
    assert find_store(config, storage) is None
    store = prepare_store(config, storage, progress=no_progress)
    found = find_store(config, storage)

    assert found
    assert found.folder == store.folder
    assert find_store(config.model_copy(update={"channels": 1}), storage) is None
    (folder / "cat" / "00.png").write_bytes((folder / "cat" / "01.png").read_bytes())
    assert find_store(config, storage) is None


def test_hashes_are_those_of_imagehash(tmp_path: Path) -> None:
    """Bit for bit, for photographs of any size."""
    parts = [astronaut()[top : top + 100, 100:260] for top in range(0, 300, 30)]
    parts += [chelsea()[:32, left : left + 32] for left in range(0, 300, 30)]
    np.save(tmp_path / "images-00000.npy", np.zeros((len(parts), 32, 32, 3), dtype=np.uint8))
    contents = [InMemoryPixels(part) for part in parts]
    ours = look_at(
        0, contents, tmp_path / "images-00000.npy", (32, 32, 3), DataConfig(depth=16)
    ).looks["hash"]
    theirs = [int(str(imagehash.phash(Image.fromarray(part))), 16) for part in parts]

    assert ours.tolist() == theirs


def test_near_pairs_are_those_that_all_comparisons_find() -> None:
    """The bands of bits must lose none."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (60, 16, 16, 3)).astype(np.uint8)
    noisy = np.clip(base.astype(int) + rng.integers(-9, 10, base.shape), 0, 255).astype(np.uint8)
    images = np.concatenate([base, noisy])
    thumbnails = np.stack(
        [np.asarray(Image.fromarray(i).convert("L").resize((THUMBNAIL,) * 2)) for i in images]
    ).astype(np.float32)
    hashes = perceptual_hashes(thumbnails)
    digests = np.arange(120, dtype="<u8").view("V8")
    for most_bits in (1, 3, 6):
        pairs, cut_off = near_pairs(
            hashes, np.full(120, 50.0, np.float32), digests, images, most_bits
        )
        every = {
            (i, j)
            for i in range(120)
            for j in range(i + 1, 120)
            if int(hashes[i] ^ hashes[j]).bit_count() <= most_bits and j == i + 60
        }

        assert not cut_off
        assert {tuple(pair) for pair in pairs.tolist()} == every
        assert every or most_bits == 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_groups_are_what_pairs_and_digests_connect(values: list[int], data: st.DataObject) -> None:
    """Each is named by its first member, and to be near is passed on."""
    count = len(values)
    places = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(places, places), max_size=10))
    digests = np.array(values, dtype="<u8").view("V8")
    groups = groups_of(digests, np.array(pairs, dtype=np.int64).reshape(-1, 2)).tolist()

    assert all(groups[group] == group <= row for row, group in enumerate(groups))
    for first, second in pairs:
        assert groups[first] == groups[second]
    for first in range(count):
        for second in range(count):
            if values[first] == values[second]:
                assert groups[first] == groups[second]
    parts = len(set(groups))
    assert parts >= len(set(values)) - len(pairs)


def test_the_digits_are_usable(digits: Store) -> None:
    """The default of every new user."""
    assert Findings(digits, allow_leakage=False).usable


def test_classes_that_are_told_apart_by_a_mistake_are_named(make_photos: MakePhotos) -> None:
    """Cat and cat on one disk, or one class of scans: the score would be fine, the model useless."""
    folder = make_photos(count=24)
    (folder / "cat").rename(folder / "WOMAN")
    for path in (folder / "woman").iterdir():
        Image.open(path).convert("L").save(path)
    warnings = texts(found_in(folder), "warning")

    assert any("differ in case only: WOMAN, woman" in text for text in warnings)
    assert any(
        "every picture is grey, and hardly any of other classes: woman" in text for text in warnings
    )
    for path in (folder / "WOMAN").iterdir():
        Image.open(path).convert("L").save(path)
    assert not any("grey" in text for text in texts(found_in(folder), "warning"))
