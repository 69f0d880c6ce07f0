"""One rule for folders of class folders: on this machine, in a tar, in a zip, and as a table says the same."""

import csv
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgrec.config import DataConfig
from imgrec.data.content import Missing
from imgrec.data.sources import folder as folder_source
from imgrec.data.sources import open_source
from imgrec.data.sources.listing import list_samples
from imgrec.data.sources.reading import Reading
from imgrec.errors import DataError
from tests.unit.data.sources.made import add, png

Found = dict[str, tuple[str, str | None]]
PICTURE = png(0, 0)


def files_in(tree: Mapping[str, int]) -> list[str]:
    """`{"train/cat": 2}` to `train/cat/0.png`, `train/cat/1.png`."""
    return [f"{folder}/{number}.png" for folder, count in tree.items() for number in range(count)]


def lay(root: Path, files: list[str]) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(PICTURE)
    return root


def as_tar(folder: Path, _root: Path, files: list[str]) -> Path:
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for file in files:
            add(tar, file, PICTURE)
    return folder / "photos.tar"


def as_zip(folder: Path, _root: Path, files: list[str]) -> Path:
    with zipfile.ZipFile(folder / "photos.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in files:
            packed.writestr(file, PICTURE)
    return folder / "photos.zip"


def as_folder(_folder: Path, root: Path, _files: list[str]) -> Path:
    return root


FORMS = (as_folder, as_tar, as_zip)
Form = Callable[[Path, Path, list[str]], Path]


def read(source: Path, **about: object) -> tuple[Found, Reading]:
    """What each picture was taken for, by its path below the source; and how that is told."""
    config = DataConfig(source=str(source), **about)  # type: ignore[arg-type]
    opened = open_source(config, source.parent / "downloads")
    samples = [one for one in list_samples(opened, config) if not isinstance(one.content, Missing)]
    found = {one.id.rpartition(":")[2]: (one.label, one.split) for one in samples}
    return found, opened.reading()


TREES: dict[str, tuple[dict[str, int], dict[str, str | None], str]] = {
    "wrappers": (
        {
            "archive/xray/train/ill": 2,
            "archive/xray/train/well": 2,
            "archive/xray/test/ill": 1,
            "archive/xray/test/well": 1,
        },
        {"ill": None, "well": None},
        "train is archive/xray/train, test is archive/xray/test",
    ),
    "doubled": (
        {
            "set_train/set_train/a": 2,
            "set_train/set_train/b": 2,
            "set_test/set_test/a": 1,
            "set_test/set_test/b": 1,
            "set_pred/set_pred": 3,
        },
        {"a": None, "b": None},
        "left alone: pictures in set_pred, which has no class folders (3)",
    ),
    "named otherwise": (
        {
            "Training Images/a": 2,
            "Training Images/b": 2,
            "testImages/a": 1,
            "testImages/b": 1,
            "VALID_2024/a": 1,
            "VALID_2024/b": 1,
        },
        {"a": None, "b": None},
        "val is VALID_2024",
    ),
    "clutter": (
        {
            "cat": 2,
            "dog": 2,
            "dog/@eaDir/1.png": 1,
            "__MACOSX/cat": 2,
            ".ipynb_checkpoints": 1,
            "$RECYCLE.BIN/x": 1,
        },
        {"cat": None, "dog": None},
        "left alone: files or folders of desktops and storage systems (4)",
    ),
    "unlabelled test": (
        {"train/cat": 2, "train/dog": 2, "test": 3},
        {"cat": "train", "dog": "train"},
        "left alone: pictures in test, which has no class folders (3)",
    ),
    "deeper": (
        {"cat/in": 1, "cat/out": 1, "dog": 2},
        {"cat": None, "dog": None},
        "folders inside cat belong to its class; data.label_from = leaf or path",
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TREES)
def test_folders_are_read_as_people_meant_them(name: str, form: Form, tmp_path: Path) -> None:
    """The same whatever they are packed in; what was left alone is told."""
    tree, labels, said = TREES[name]
    files = files_in(tree)
    found, reading = read(form(tmp_path, lay(tmp_path / "photos", files), files))
    lines = "\n".join(reading.lines())

    assert {label for label, _ in found.values()} == set(labels)
    assert said in lines
    if name == "deeper":
        assert Counter(found.values()) == {("cat", None): 2, ("dog", None): 2}


REFUSED: dict[str, tuple[dict[str, int], str]] = {
    "no train": ({"test/a": 1, "test/b": 1}, "has test but no train folder"),
    "two trains": ({"train/a": 1, "training/b": 1}, "train and training are both train; rename"),
    "beside": ({"train/a": 1, "train/b": 1, "spare/a": 1}, "spare beside train is neither val nor"),
    "a class or a split": (
        {"train_stations/paris": 1, "train_stations/rome": 1, "airports": 2},
        r"train_stations beside airports could be a split or a class; .* data\.label_from = top",
    ),
    "views": (
        {"left/cat": 1, "left/dog": 1, "right/cat": 1, "right/dog": 1},
        r"left, right all hold the same folders \(cat, dog\).* data\.label_from = leaf",
    ),
    "no classes": ({"train": 3, "test": 2}, "test, train hold pictures, but no class folders; put"),
    "detection": (
        {"train/images": 2, "train/labels": 2, "valid/images": 1, "valid/labels": 1},
        "images, labels are folders of object detection",
    ),
    "capitals": ({"Cat": 2, "cat": 2}, "the classes Cat and cat differ in capitals only"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_with_the_setting(
    name: str, form: Form, tmp_path: Path
) -> None:
    """One line that says what is doubtful, and what answers it."""
    tree, said = REFUSED[name]
    files = files_in(tree)
    source = form(tmp_path, lay(tmp_path / "photos", files), files)

    with pytest.raises(DataError, match=said) as caught:
        read(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_the_setting_answers(form: Form, tmp_path: Path) -> None:
    """Which folder names the class, a person may say."""
    files = files_in({"left/cat": 1, "left/dog": 1, "right/cat": 1, "right/dog/old": 1})
    source = form(tmp_path, lay(tmp_path / "photos", files), files)
    labels = {
        how: {label for label, _ in read(source, label_from=how)[0].values()}
        for how in ("top", "leaf", "path")
    }

    assert labels == {
        "top": {"left", "right"},
        "leaf": {"cat", "dog", "old"},
        "path": {"left/cat", "left/dog", "right/cat", "right/dog/old"},
    }


def test_empty_class_folders_are_told_and_left_alone(tmp_path: Path) -> None:
    """Somebody has prepared for pictures that never came."""
    root = lay(tmp_path / "photos", files_in({"cat": 2, "dog": 2}))
    (root / "bird" / "young").mkdir(parents=True)
    found, reading = read(root)

    assert {label for label, _ in found.values()} == {"cat", "dog"}
    assert "no file in bird: left alone" in reading.notes


def test_a_picture_counts_once_under_the_class_where_it_lies(tmp_path: Path) -> None:
    """Links are followed, but not to what is there already, nor in circles, nor twice to the same."""
    outside = lay(tmp_path / "elsewhere", files_in({"dog": 3}))
    root = lay(tmp_path / "photos", files_in({"cat": 2, "wolf": 1}))
    (root / "a cat again").symlink_to(root / "cat")
    (root / "dog").symlink_to(outside / "dog")
    (root / "wolf" / "dogs").symlink_to(outside)
    (root / "cat" / "up").symlink_to(tmp_path)
    (root / "cat" / "twice.png").symlink_to(root / "wolf" / "0.png")
    (root / "wolf" / "linked.png").symlink_to(outside / "dog" / "0.png")
    (root / "wolf" / "dead.png").symlink_to("/nowhere/x.png")
    found, reading = read(root)

    assert Counter(label for label, _ in found.values()) == {"cat": 2, "wolf": 3, "dog": 3}
    assert reading.ignored == {
        "links to pictures that are there already": 1,
        "links to folders that are there already": 3,
    }


def test_classes_are_in_the_order_in_which_people_count(tmp_path: Path) -> None:
    """2 comes before 10."""
    from tests.unit.data.made import prepared

    names = ("10", "2", "1", "item 9", "item 10")
    store = prepared(lay(tmp_path / "photos", files_in(dict.fromkeys(names, 4))), tmp_path)

    assert store.class_names == ("1", "2", "10", "item 9", "item 10")
    assert store.reading is not None
    again = prepared(tmp_path / "photos", tmp_path)
    assert again.reading == store.reading


NAMES = st.sampled_from(["cat", "dog", "Fuß", "红色", "a b", "x.y", "7"])
SPLITS = st.sampled_from([("",), ("train/", "test/"), ("my_train/", "my_valid/", "my_test/")])
CLUTTER = st.lists(
    st.sampled_from([".DS_Store", "cat/Thumbs.db", "__MACOSX/._a.png", "@eaDir/b.png"]),
    max_size=3,
    unique=True,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    classes=st.lists(NAMES, min_size=2, max_size=4, unique=True),
    splits=SPLITS,
    wrapper=st.sampled_from(["", "archive/", "archive/photos/"]),
    clutter=CLUTTER,
    deep=st.booleans(),
)
def test_a_tree_is_the_same_in_every_form(
    classes: list[str],
    splits: tuple[str, ...],
    wrapper: str,
    clutter: list[str],
    deep: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Random folders, names, splits and clutter, as a folder, a tar, a zip and a table: the same classes and splits."""
    folder = tmp_path_factory.mktemp("tree")
    told = {
        "": None,
        "train/": "train",
        "test/": "test",
        "my_train/": "train",
        "my_valid/": "val",
        "my_test/": "test",
    }
    wanted: Found = {}
    for split in splits:
        for place, name in enumerate(classes):
            below = "deep/" if deep and place == 0 else ""
            for number in range(2):
                wanted[f"{wrapper}{split}{name}/{below}{number}.png"] = (name, told[split])
    files = [*wanted, *(wrapper + one for one in clutter)]
    root = lay(folder / "photos", files)
    table = folder / "table.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        writer.writerows(
            [f"photos/{path}", label, split or ""] for path, (label, split) in wanted.items()
        )
    results = [read(form(folder, root, files))[0] for form in FORMS]
    of_table = {path.removeprefix("photos/"): what for path, what in read(table)[0].items()}

    assert results == [wanted, wanted, wanted]
    assert of_table == wanted


@pytest.mark.parametrize("form", FORMS)
def test_top_is_below_splits(form: Form, tmp_path: Path) -> None:
    """`data.label_from = top` does not make classes of train and test."""
    files = files_in({"train/cat/in": 1, "train/dog": 1, "test/cat": 1, "test/dog/out": 1})
    found, _ = read(form(tmp_path, lay(tmp_path / "photos", files), files), label_from="top")

    assert Counter(found.values()) == {
        (label, split): 1 for label in ("cat", "dog") for split in ("train", "test")
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_pattern_of_names_keeps_the_splits_of_folders(form: Form, tmp_path: Path) -> None:
    """By any name that folders of splits are known by; what lies beside them is not joined in silence."""
    names = [
        f"{place}/{label}_{number}.png"
        for place in ("seg_train", "testImages")
        for label in ("cat", "dog")
        for number in range(2)
    ]
    source = form(tmp_path, lay(tmp_path / "photos", names), names)
    found, reading = read(source, label_pattern="(?P<label>[a-z]+)_[0-9]")

    assert Counter(found.values()) == {
        (label, split): 2 for label in ("cat", "dog") for split in ("train", "test")
    }
    assert dict(reading.splits) == {"train": "seg_train", "test": "testImages"}
    more = [*names, "extra/cat_9.png"]
    (tmp_path / "b").mkdir()
    source = form(tmp_path / "b", lay(tmp_path / "b" / "photos", more), more)
    with pytest.raises(DataError, match="seg_train beside extra could be a split or a class"):
        read(source, label_pattern="(?P<label>[a-z]+)_[0-9]")


def test_many_links_to_folders_are_followed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of links is how people choose among a million pictures."""
    for label in ("cat", "dog"):
        for number in range(1500):
            folder = tmp_path / "all" / f"{label}{number}"
            folder.mkdir(parents=True)
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / label / f"{label} {number}").symlink_to(folder)
        (folder / "1.png").write_bytes(PICTURE)
    looked: list[str] = []

    def with_parents(path: str) -> Iterator[str]:
        looked.append(path)
        return parents_of(path)

    parents_of = folder_source._with_parents
    monkeypatch.setattr(folder_source, "_with_parents", with_parents)
    found, _ = read(tmp_path / "photos")

    assert Counter(label for label, _ in found.values()) == {"cat": 1, "dog": 1}
    assert len(looked) <= 2 * 3000 + 1  # each is looked at, and not compared with each
