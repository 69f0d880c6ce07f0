"""What a scan finds: duplicates, leakage, classes, odd pictures; and what stops a run."""

import shutil

import pytest
from PIL import Image
from skimage.data import astronaut, chelsea

from imgrec.config import DataConfig
from imgrec.data.findings import Findings
from imgrec.data.splits import make_splits
from imgrec.data.store import Store
from imgrec.errors import DataError
from tests.unit.data.made import MakePhotos, found_in


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


def test_the_digits_are_usable(digits: Store) -> None:
    """The default of every new user."""
    assert Findings(digits, allow_leakage=False).usable


def test_classes_that_are_told_apart_by_a_mistake_are_named(make_photos: MakePhotos) -> None:
    """One class of scans: the score would be fine, the model useless."""
    folder = make_photos(count=24)
    (folder / "cat").rename(folder / "lady")
    for path in (folder / "woman").iterdir():
        Image.open(path).convert("L").save(path)
    warnings = texts(found_in(folder), "warning")

    assert any(
        "every picture is grey, and hardly any of other classes: woman" in text for text in warnings
    )
    for path in (folder / "lady").iterdir():
        Image.open(path).convert("L").save(path)
    assert not any("grey" in text for text in texts(found_in(folder), "warning"))
