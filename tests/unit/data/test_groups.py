"""Pictures of one patient, animal or film are on one side of every split."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from imgrec.config import DataConfig
from imgrec.data.findings import Findings
from imgrec.data.splits import make_splits
from imgrec.data.store import Store
from imgrec.errors import DataError
from tests.conftest import picture
from tests.unit.data.made import prepared
from tests.unit.data.test_splits import store_of


def write(folder: Path, names: list[str], *, seed: int = 0) -> Path:
    """A different picture for each of these names; its class is its folder's number."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number % 3, seed + number).save(path)
    return folder


def groups_in(store: Store) -> dict[str, set[str]]:
    """The splits that each patient is in."""
    splits = make_splits(store, DataConfig())
    found = defaultdict[str, set[str]](set)
    ids = store.ids()
    for name in ("train", "val", "test"):
        for row in getattr(splits, name):
            found[ids[row].rpartition("/")[2].partition("_")[0]].add(name)
    return found


PATIENTS = [
    f"{label}/p{label}{patient}_{number}.png"
    for label in ("ill", "well")
    for patient in range(12)
    for number in range(4)
]


@pytest.mark.parametrize("group", [r"(?P<group>p[a-z]+\d+)_", "column"])
def test_no_patient_is_on_both_sides(group: str, tmp_path: Path) -> None:
    """By a pattern of the names, or by a column of the table."""
    folder = write(tmp_path / "photos", PATIENTS)
    source: Path = folder
    if group == "column":
        source = tmp_path / "table.csv"
        lines = [
            "path,label,Patient",
            *(f"photos/{n},{n.partition('/')[0]},{n.partition('_')[0]}" for n in PATIENTS),
        ]
        source.write_text("\n".join(lines))
    store = prepared(source, tmp_path, group="patient" if group == "column" else group)

    assert all(len(splits) == 1 for splits in groups_in(store).values())
    assert Findings(store, allow_leakage=False).usable


def test_folders_of_films_are_groups(tmp_path: Path) -> None:
    """`data.group = folder`: what lies in one folder belongs together."""
    names = [
        f"{label}/film {label}{film}/{number}_.png"
        for label in ("a", "b")
        for film in range(10)
        for number in range(3)
    ]
    store = prepared(write(tmp_path / "photos", names), tmp_path, group="folder")
    splits, ids = make_splits(store, DataConfig()), store.ids()
    films = [
        {ids[row].rpartition("/")[0] for row in rows}
        for rows in (splits.train, splits.val, splits.test)
    ]

    assert not films[0] & films[1]
    assert not films[0] & films[2]
    assert not films[1] & films[2]


def test_a_group_in_several_splits_of_the_source_stops_a_run(tmp_path: Path) -> None:
    """Unless a person allows it; the message says which."""
    names = [
        f"{split}/{label}/p{split}{label}{n}_{m}.png"
        for split in ("train", "test")
        for label in ("a", "b")
        for n in range(4)
        for m in range(3)
    ]
    names += ["test/a/ptraina0_9.png"]
    folder = write(tmp_path / "photos", names)
    store = prepared(folder, tmp_path, group=r"(?P<group>p[a-z]+\d+)_")

    with pytest.raises(
        DataError, match=r"1 group of data\.group in several splits .*ptraina0.*allow_leakage"
    ):
        Findings(store, allow_leakage=False).refuse_unusable("x")
    Findings(store, allow_leakage=True).refuse_unusable("x")


def test_names_that_look_like_groups_are_pointed_out(tmp_path: Path) -> None:
    """It is the commonest leak, and the pattern is filled in."""
    store = prepared(write(tmp_path / "photos", PATIENTS), tmp_path)
    (problem,) = (
        one for one in Findings(store, allow_leakage=False).problems if "groups" in one.text
    )
    plain = [f"{label}/{number:04d}.png" for label in ("a", "b") for number in range(12)]

    assert "24 groups (such as ill/pill0_0.png)" in problem.text
    assert "set data.group = '(?P<group>" in problem.text
    other = prepared(write(tmp_path / "other", plain, seed=500), tmp_path)
    assert not [
        one for one in Findings(other, allow_leakage=False).problems if "groups" in one.text
    ]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"group": "(?P<group>"}, "no regular expression"),
        ({"group": "(?P<label>x)"}, r"has no \(\?P<group>"),
        ({"label_pattern": "cat"}, r"has no \(\?P<label>"),
    ],
)
def test_a_pattern_that_is_none_is_refused(setting: dict[str, str], said: str) -> None:
    """When the settings are read, and not when a thousand files were listed."""
    with pytest.raises(ValueError, match=said):
        DataConfig(**setting)


def test_a_column_of_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder has none."""
    with pytest.raises(DataError, match="the source has no columns; write folder, or a regular"):
        prepared(write(tmp_path / "photos", PATIENTS), tmp_path, group="patient")


@settings(max_examples=300)
@given(data=st.data(), classes=st.integers(2, 4), groups=st.integers(24, 60))
def test_no_group_is_divided_and_classes_stay_even(
    data: st.DataObject, classes: int, groups: int
) -> None:
    """Random groups of one class each: whole, and shares of classes no worse than scikit-learn's, or two groups off."""
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=groups, max_size=groups))
    labels = [number % classes for number, size in enumerate(sizes) for _ in range(size)]
    ids = [number for number, size in enumerate(sizes) for _ in range(size)]
    first = {number: ids.index(number) for number in set(ids)}
    store = store_of(labels, [first[number] for number in ids])
    splits = make_splits(store, DataConfig())
    of = np.array(ids)
    sides = [set(of[rows].tolist()) for rows in (splits.train, splits.val, splits.test)]

    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    array = np.array(labels)
    whole = np.bincount(array, minlength=classes) / len(array)

    def off(rows: np.ndarray) -> float:
        return float(np.abs(np.bincount(array[rows], minlength=classes) / len(rows) - whole).max())

    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(array, array, of)
    theirs = max(off(test) for _, test in folds)
    assert off(splits.test) <= max(theirs, 2 * max(sizes) / len(splits.test))


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_groups_of_several_classes_are_spread_evenly() -> None:
    """No group is divided; classes are spread over splits as evenly as scikit-learn spreads them over its folds."""
    ours, theirs = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        classes, groups = rng.integers(2, 6), rng.integers(20, 80)
        usual = rng.dirichlet(np.full(classes, 2.0)) * rng.choice([0.1, 0.5, 2]) * classes
        sizes = rng.integers(1, 9, groups)
        ids = np.repeat(np.arange(groups), sizes)
        mixes = rng.dirichlet(usual + 1e-3, groups)
        labels = np.array([rng.choice(classes, p=mixes[group]) for group in ids])
        firsts = np.repeat(np.cumsum(sizes) - sizes, sizes)
        splits = make_splits(store_of(labels.tolist(), firsts.tolist()), DataConfig())
        whole = np.bincount(labels, minlength=classes) / len(labels)

        def off(rows: np.ndarray, labels: np.ndarray = labels, whole: np.ndarray = whole) -> float:
            shares = np.bincount(labels[rows], minlength=len(whole)) / len(rows)
            return float(np.abs(shares - whole).max())

        sides = [set(ids[rows].tolist()) for rows in (splits.train, splits.val, splits.test)]
        assert sum(map(len, sides)) == groups
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, ids)
        of_folds = [off(test) for _, test in folds]
        assert off(splits.test) <= max(*of_folds, 2 * sizes.max() / len(splits.test))
        ours.append(off(splits.test))
        theirs.append(np.mean(of_folds))

    assert np.mean(ours) <= np.mean(theirs)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (r"(?P<group>patient\d+)", "no picture has one"),
        (r"(?P<group>p)", "all pictures have the same"),
    ],
)
def test_a_group_that_ties_nothing_or_everything_is_refused(
    group: str, said: str, tmp_path: Path
) -> None:
    """Whoever set it believes that patients are kept together."""
    with pytest.raises(DataError, match=rf"data\.group = .*: {said} \(such as ill/pill0_0\.png\)"):
        prepared(write(tmp_path / "photos", PATIENTS), tmp_path, group=group)


def test_pictures_without_a_group_are_told(tmp_path: Path) -> None:
    """A pattern that fits some names leaves the others to chance."""
    folder = write(tmp_path / "photos", [*PATIENTS, "ill/other.png"])
    store = prepared(folder, tmp_path, group=r"(?P<group>p[a-z]+\d+)_")
    texts = [one.text for one in Findings(store, allow_leakage=False).problems]

    assert "1 picture of no group of data.group (such as ill/other.png)" in texts


def test_a_rare_class_within_groups_is_in_every_split() -> None:
    """A patient with one malignant picture among benign ones counts as malignant when splits are cut."""
    labels = [int(patient < 6 and number == 3) for patient in range(50) for number in range(4)]
    firsts = [4 * (row // 4) for row in range(200)]
    for seed in range(20):
        splits = make_splits(store_of(labels, firsts), DataConfig(split_seed=seed))
        assert all(np.array(labels)[rows].any() for rows in (splits.train, splits.val, splits.test))
