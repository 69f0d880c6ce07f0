"""Tables as Excel, Kaggle, Hugging Face and scripts leave them."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from imgrec.config import DataConfig
from imgrec.data.content import Missing
from imgrec.data.sources import open_source
from imgrec.data.sources.listing import list_samples
from imgrec.data.sources.reading import Reading
from imgrec.data.sources.sample import Sample
from imgrec.errors import DataError, DecodeError
from tests.unit.data.sources.made import png

Row = tuple[str, str]
ROWS: list[Row] = [
    (f"images/{label}{number}.png", label) for label in ("cat", "dog") for number in range(3)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures in images/."""
    for path, _ in ROWS:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(png(0, 0))
    return tmp_path


def read(source: Path, **about: object) -> tuple[list[Sample], Reading]:
    config = DataConfig(source=str(source), **about)  # type: ignore[arg-type]
    opened = open_source(config, source.parent / "downloads")
    return list_samples(opened, config), opened.reading()


def readable(samples: list[Sample]) -> Counter[tuple[str, str | None]]:
    """Class and split of the samples whose file is there."""
    return Counter((one.label, one.split) for one in samples if one.content.read())


def as_text(header: str, line: Callable[[str, str], str], encoding: str = "utf-8") -> bytes:
    lines = [header] if header else []
    return "\r\n".join([*lines, *(line(*row) for row in ROWS), ""]).encode(encoding)


ALL = {("cat", None): 3, ("dog", None): 3}
TABLES: dict[str, tuple[str, bytes, str]] = {
    "other names": ("a.csv", as_text("Image_Path,Category", "{},{}".format), "column Image_Path"),
    "ids of Kaggle": (
        "labels.csv",
        as_text("id,label", lambda path, label: f"{Path(path).stem},{label}"),
        "in column id",
    ),
    "UTF-16 of Excel": (
        "a.csv",
        as_text("path\tlabel", "{}\t{}".format, "utf-16"),
        "is read as utf-16",
    ),
    "Windows' paths": (
        "a.csv",
        as_text("path;label", lambda path, label: path.replace("/", "\\") + ";" + label),
        "column path",
    ),
    "one column for each class": (
        "a.csv",
        as_text(
            "image,cat,dog", lambda path, label: f"{path},{label == 'cat':d},{label == 'dog':d}"
        ),
        "the one of 2 columns with a 1",
    ),
    "JSON lines": (
        "a.jsonl",
        as_text("", lambda path, label: json.dumps({"file_name": path, "label": label})),
        "column file_name",
    ),
    "a list": ("train_list.txt", as_text("", "{} {}".format), "a list of files without a header"),
    "a list by tabs": (
        "list.tsv",
        as_text("", "{}\t{}".format),
        "a list of files without a header",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_it_came(name: str, folder: Path) -> None:
    """Its columns, encoding and delimiter are found, and told."""
    file, content, said = TABLES[name]
    (folder / file).write_bytes(content)
    samples, reading = read(folder / file)

    assert readable(samples) == ALL
    assert said in "\n".join(reading.lines())


@pytest.mark.parametrize("names", [("猫", "狗"), ("家里养的小猫咪", "院子里的大黄狗")])
def test_chinese_excel_is_read_and_said(names: tuple[str, str], folder: Path) -> None:
    """GBK is what a Chinese Excel writes into a CSV, also where one character is all that there is to tell by."""
    of = dict(zip(("cat", "dog"), names, strict=True))
    content = as_text("path,label", lambda path, label: f"{path},{of[label]}", "gbk")
    (folder / "a.csv").write_bytes(content)
    samples, reading = read(folder / "a.csv")

    assert {one.label for one in samples} == set(names)
    assert "a.csv is read as gb" in "\n".join(reading.lines())


def test_another_encoding_is_said_by_a_setting(folder: Path) -> None:
    """What is found by the bytes alone may be wrong."""
    of = {"cat": "고양이", "dog": "개"}
    content = as_text("path,label", lambda path, label: f"{path},{of[label]}", "cp949")
    (folder / "a.csv").write_bytes(content)

    assert {one.label for one in read(folder / "a.csv", encoding="cp949")[0]} == set(of.values())
    with pytest.raises(ValueError, match="'klingon' is no encoding"):
        DataConfig(encoding="klingon")


def test_columns_of_any_name_are_named_by_a_setting(folder: Path) -> None:
    """And the error for those that are not found says how."""
    (folder / "a.csv").write_bytes(as_text("photo,breed", "{},{}".format))

    with pytest.raises(
        DataError, match=r"no column path or file; it has photo, breed: .* data\.columns = \{path"
    ):
        read(folder / "a.csv")
    samples, _ = read(folder / "a.csv", columns={"path": "photo", "label": "breed"})
    assert readable(samples) == ALL
    with pytest.raises(DataError, match="no column race; it has photo, breed"):
        read(folder / "a.csv", columns={"path": "photo", "label": "race"})


def test_numbers_are_named_by_the_list_beside_the_table(folder: Path) -> None:
    """As many published sets have it: path and number, and the names in labels.txt."""
    (folder / "list.txt").write_bytes(as_text("", lambda path, label: f"{path} {label == 'dog':d}"))
    (folder / "labels.txt").write_text("cat\ndog\n")
    samples, _ = read(folder / "list.txt")

    assert readable(samples) == ALL


def test_an_id_that_two_files_have_goes_to_quarantine(folder: Path) -> None:
    """Which of them is meant nobody knows."""
    (folder / "other").mkdir()
    (folder / "other" / "cat1.png").write_bytes(png(0, 1))
    (folder / "a.csv").write_text("id,label\ncat0,cat\ncat1,cat\ndog0,dog\n")
    samples, _ = read(folder / "a.csv")
    (lost,) = (one for one in samples if isinstance(one.content, Missing))

    assert lost.id == "cat1"
    assert "2 files are called cat1" in lost.content.reason


def test_several_classes_of_one_picture_are_refused(folder: Path) -> None:
    """It is another task, and not half of this one."""
    (folder / "a.csv").write_text("image,cat,dog\nimages/cat0.png,1,0\nimages/cat1.png,1,1\n")

    with pytest.raises(DataError, match=r"row 2 has several classes \(cat, dog\)"):
        read(folder / "a.csv")


def test_tables_called_as_splits_are_those(folder: Path) -> None:
    """train.csv and val.csv, side by side; others are not guessed at."""
    for split, rows in (("train", ROWS[:2] + ROWS[3:5]), ("val", [ROWS[2], ROWS[5]])):
        lines = ["path,label", *(",".join(row) for row in rows)]
        (folder / f"{split}.csv").write_text("\n".join(lines))
    samples, reading = read(folder / "*.csv")

    assert readable(samples) == {
        ("cat", "train"): 2,
        ("dog", "train"): 2,
        ("cat", "val"): 1,
        ("dog", "val"): 1,
    }
    assert reading.splits == {"train": "train.csv", "val": "val.csv"}
    (folder / "more.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="3 tables of paths; give one, or call them train, val and"):
        read(folder / "*.csv")


@pytest.mark.parametrize("split", ["", "train"])
def test_the_table_that_hugging_face_lays_into_a_folder_is_found(
    split: str, tmp_path: Path
) -> None:
    """`metadata.csv` or `metadata.jsonl` beside the pictures, or in each split folder."""
    for place in [split, "test"] if split else [""]:
        root = tmp_path / "set" / place
        for label in ("cat", "dog"):
            for number in range(3):
                root.mkdir(parents=True, exist_ok=True)
                (root / f"{label}{number}.png").write_bytes(png(0, 0))
        rows = [
            {"file_name": f"{label}{n}.png", "label": label}
            for label in ("cat", "dog")
            for n in range(3)
        ]
        (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples, _ = read(tmp_path / "set")
    wanted = {
        (label, one or None): 3
        for label in ("cat", "dog")
        for one in ([split, "test"] if split else [""])
    }

    assert readable(samples) == wanted


def test_a_list_called_labels_is_not_its_own_names(folder: Path) -> None:
    """Whoever calls the list itself labels.txt means no names by it."""
    (folder / "labels.txt").write_bytes(as_text("", "{} {}".format))

    assert readable(read(folder / "labels.txt")[0]) == ALL


def test_numbers_that_the_names_do_not_reach_are_refused(folder: Path) -> None:
    """Counted from 1, every class would have the name of the next; and other names are other data."""
    (folder / "classes.txt").write_text("cat\ndog\n")
    (folder / "a.csv").write_bytes(
        as_text("path,label", lambda path, label: f"{path},{1 + (label == 'dog')}")
    )
    with pytest.raises(
        DataError, match=r"row 4 has class 2, and classes\.txt beside it names 2, from 0 on"
    ):
        read(folder / "a.csv")
    (folder / "a.csv").write_bytes(
        as_text("path,label", lambda path, label: f"{path},{label == 'dog':d}")
    )
    config = DataConfig(source=str(folder / "a.csv"))
    before = open_source(config, folder).state()
    _, reading = read(folder / "a.csv")
    (folder / "classes.txt").write_text("dog\ncat\n")

    assert "numbers are classes by classes.txt: 0 is cat, 1 is dog" in reading.notes[0]
    assert open_source(config, folder).state() != before


def test_an_id_with_a_folder_takes_no_file_of_another(folder: Path) -> None:
    """cat/001 is not dog/001."""
    (folder / "dog").mkdir()
    (folder / "dog" / "001.png").write_bytes(png(0, 0))
    (folder / "a.csv").write_text("id,label\ncat/001,cat\ndog/001,dog\n")
    samples, _ = read(folder / "a.csv")

    with pytest.raises(DecodeError, match="there is no"):
        samples[0].content.read()
    assert samples[1].content.read()


def test_json_lines_may_differ_in_their_keys(folder: Path) -> None:
    """The first need not have a split for the others to have one."""
    rows = [
        {"path": path, "label": label} | ({"split": "test"} if number % 3 == 2 else {})
        for number, (path, label) in enumerate(ROWS)
    ]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples, _ = read(folder / "a.jsonl")

    assert readable(samples) == {
        ("cat", None): 2,
        ("dog", None): 2,
        ("cat", "test"): 1,
        ("dog", "test"): 1,
    }
    (folder / "b.jsonl").write_text("")
    with pytest.raises(DataError, match=r"b\.jsonl: no row in it"):
        read(folder / "b.jsonl")
    (folder / "c.jsonl").write_text(
        json.dumps({"path": "images/cat0.png", "label": ["cat", "dog"]})
    )
    with pytest.raises(DataError, match="row 1 has several classes"):
        read(folder / "c.jsonl")


def test_a_column_of_other_numbers_is_no_class(folder: Path) -> None:
    """`fold` and `grade` begin with 0 and 1 too; ISIC writes 1.0."""
    (folder / "a.csv").write_text(
        "image,fold,grade\nimages/cat0.png,1,0\nimages/cat1.png,0,1\nimages/dog0.png,1,2\n"
    )
    with pytest.raises(DataError, match="row 3 has '2' in column grade, which is neither 0 nor 1"):
        read(folder / "a.csv")
    (folder / "b.csv").write_bytes(
        as_text(
            "image,cat,dog",
            lambda path, label: f"{path},{float(label == 'cat')},{float(label == 'dog')}",
        )
    )
    assert readable(read(folder / "b.csv")[0]) == ALL


def test_the_index_that_pandas_writes_is_no_split(folder: Path) -> None:
    """A column without a name comes first."""
    (folder / "a.csv").write_bytes(
        as_text(",path,label", lambda path, label: f"{len(path)},{path},{label}")
    )

    assert readable(read(folder / "a.csv")[0]) == ALL


def test_a_table_of_files_with_bytes_in_it_is_a_table_of_files(folder: Path) -> None:
    """A hash or a thumbnail is not the picture."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"path": path, "label": label, "md5": b"0123"} for path, label in ROWS]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    assert readable(read(folder / "a.parquet")[0]) == ALL
    rows = [{"image": png(0, 0), "label": label} for _, label in ROWS]
    (folder / "set").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), folder / "set" / "a.parquet")
    parquet.write_table(pa.table({"about": ["x"]}), folder / "set" / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: no column holds pictures"):
        read(folder / "set")


def test_folders_of_a_table_are_groups_whatever_their_slashes(folder: Path) -> None:
    """`data.group = folder` goes by where the files are."""
    rows = [
        f"p{patient}\\{number}.png,{'cat' if patient % 2 else 'dog'}"
        for patient in range(4)
        for number in range(2)
    ]
    (folder / "a.csv").write_text("\n".join(["path,label", *rows]))
    samples, _ = read(folder / "a.csv", group="folder")

    assert len({one.group for one in samples}) == 4


@pytest.mark.parametrize(
    "place", ["", "/home/somebody/", "C:\\Users\\me\\", "C:\\\\Users\\\\me\\\\", "other/"]
)
def test_files_that_lie_elsewhere_are_found_by_name(place: str, folder: Path) -> None:
    """The paths of another machine, or names alone; but a folder that is not there is not another one."""
    (folder / "a.csv").write_bytes(
        as_text("path,label", lambda path, label: f"{place}{Path(path).name},{label}")
    )
    if place == "other/":
        samples, _ = read(folder / "a.csv")
        with pytest.raises(DecodeError, match="there is no"):
            samples[0].content.read()
        return

    assert readable(read(folder / "a.csv")[0]) == ALL


def test_a_folder_whose_classes_a_table_says_points_to_it(folder: Path) -> None:
    """Kaggle: train.csv beside train/ and test/, which hold all pictures."""
    (folder / "images").rename(folder / "train")
    (folder / "test").mkdir()
    (folder / "test" / "x.png").write_bytes(png(0, 0))
    (folder / "train.csv").write_bytes(
        as_text("id,label", lambda path, label: f"{Path(path).stem},{label}")
    )

    with pytest.raises(
        DataError, match="test, train hold pictures, but no class folders; give train"
    ):
        read(folder)
    assert readable(read(folder / "train.csv")[0]) == ALL
