"""Answers to many pictures in a file: complete, resumed, in three kinds."""

import csv
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from imgrec.classifier import Classifier
from imgrec.config import DataConfig
from imgrec.data.content import Content
from imgrec.errors import ConfigError, DataError
from pipelines import predict
from pipelines.predict import Here, list_pictures, predict_into, refuse_ending
from tests.integration.serving.made import make_classifier, picture


def write(folder: Path, count: int) -> Path:
    """So many pictures, and one file that is none."""
    (folder / "deep" / "er").mkdir(parents=True)
    for row in range(count):
        (folder / "deep" / f"{row:03d}.png").write_bytes(picture(row))
    (folder / "deep" / "er" / "broken.png").write_bytes(b"no picture")
    return folder


def run(
    out: Path, classifier: Classifier, folder: Path, **about: str
) -> tuple[predict.Predicted, list[int]]:
    told: list[int] = []
    pictures = list_pictures([str(folder)], DataConfig(), folder / "downloads")
    done = predict_into(out, Here(classifier, 2), pictures, about=about, progress=told.append)
    return done, told


def test_every_picture_has_a_row_in_its_place(tmp_path: Path) -> None:
    """In Parquet, JSON lines and CSV the same, those that cannot be read with their reason."""
    folder, classifier = write(tmp_path / "in", 5), make_classifier()
    for ending in (".parquet", ".jsonl", ".csv"):
        done, _ = run(tmp_path / f"out{ending}", classifier, folder)
        assert (done.pictures, done.unread, done.taken) == (6, 1, 0)
        assert done.first_unread is not None
        assert done.first_unread[0].endswith("er/broken.png")
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))

    names = [f"{folder}/deep/{row:03d}.png" for row in range(5)] + [f"{folder}/deep/er/broken.png"]
    expected = classifier.predict([*names[:5]])
    assert [row["picture"] for row in rows] == names
    assert [row["label"] for row in rows[:5]] == [one.label for one in expected]
    for row, one in zip(rows[:5], expected, strict=True):
        ranked = sorted(one.probabilities.items(), key=lambda item: -item[1])[:2]
        assert row["top_labels"] == [name for name, _ in ranked]
        assert row["top_probabilities"] == pytest.approx([share for _, share in ranked], abs=1e-6)
        assert row["error"] is None
    assert "not a picture" in rows[5]["error"]
    assert rows[5]["label"] is None
    assert [row.get("label") for row in lines] == [row["label"] for row in rows]
    assert [row["label"] or None for row in table] == [row["label"] for row in rows]
    assert json.loads(table[0]["top_labels"]) == rows[0]["top_labels"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in",
        "out.csv",
        "out.jsonl",
        "out.parquet",
    ]


class Killed(BaseException):
    """As if the process had ended."""


class Mortal(Classifier):
    """A classifier whose process ends after so many parts; it counts what it is asked."""

    lives = 0
    asked = 0

    def predict_each(self, pictures: Sequence[Content], decode_workers: int = 0) -> object:  # type: ignore[override]
        if not self.lives:
            raise Killed
        self.lives -= 1
        self.asked += len(pictures)
        return super().predict_each(pictures, decode_workers)


def mortal(lives: int, seed: int = 0) -> Mortal:
    plain = make_classifier(seed)
    made = Mortal(plain.card, plain.model.state_dict())
    made.lives = lives
    return made


def test_after_a_kill_no_picture_is_done_twice_or_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And until all are done there is no file that looks as if they were."""
    monkeypatch.setattr(predict, "PART", 4)
    folder, out = write(tmp_path / "in", 13), tmp_path / "out.parquet"
    with pytest.raises(Killed):
        run(out, mortal(2), folder)
    assert not out.exists()
    second = mortal(9)
    done, _ = run(out, second, folder)

    assert second.asked == 6
    assert (done.pictures, done.taken) == (14, 8)
    names = pq.read_table(out)["picture"].to_pylist()
    assert len(set(names)) == len(names) == 14
    once, _ = run(tmp_path / "once.parquet", make_classifier(), folder)
    assert once.taken == 0
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "once.parquet"))


def test_what_another_model_has_answered_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor what was answered with other priors, or for other pictures."""
    monkeypatch.setattr(predict, "PART", 4)
    folder, out = write(tmp_path / "in", 6), tmp_path / "out.parquet"
    for about in ({"weights": "1"}, {"weights": "2"}, {"weights": "2", "priors": "even"}):
        with pytest.raises(Killed):
            run(out, mortal(1), folder, **about)
    (folder / "deep" / "000.png").write_bytes(picture(77))  # another picture of the same name
    with pytest.raises(Killed):
        run(out, mortal(1), folder, weights="2", priors="even")
    (folder / "deep" / "zzz.png").write_bytes(picture(99))
    done, _ = run(out, make_classifier(), folder, weights="2", priors="even")

    assert (done.pictures, done.taken) == (8, 0)


def test_pictures_come_from_wherever_data_come_from(tmp_path: Path) -> None:
    """Files, folders, patterns, archives, together."""
    folder = write(tmp_path / "in", 3)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("cat/1.png", picture(1))
        archive.writestr("dog/2.png", picture(2))
    names = [str(folder), f"{folder}/deep/*.png", str(tmp_path / "more.zip"), "nowhere.png"]
    pictures = list_pictures(names, DataConfig(), tmp_path / "downloads")
    answers = [*make_classifier().predict_each([content for _, content in pictures])]

    assert [Path(name).name for name, _ in pictures] == [
        *("000.png", "001.png", "002.png", "broken.png"),
        *("000.png", "001.png", "002.png"),
        *("1.png", "2.png"),
        "nowhere.png",
    ]
    assert [hasattr(one, "label") for one in answers] == [True] * 3 + [False] + [True] * 5 + [False]
    with pytest.raises(DataError, match="no picture there"):
        list_pictures([f"{tmp_path}/*.gif"], DataConfig(), tmp_path)


def test_a_folder_is_what_lies_in_it(tmp_path: Path) -> None:
    """A picture with two names is answered under each; pictures beside archives are refused, for one of them is meant."""
    folder = write(tmp_path / "in", 2)
    (folder / "again.png").symlink_to(folder / "deep" / "000.png")
    (folder / "metadata.csv").write_text("file_name,label\ndeep/000.png,cat\n")
    found = list_pictures([str(folder)], DataConfig(label_pattern="(?P<label>.)"), tmp_path)
    assert [Path(name).name for name, _ in found] == [
        *("again.png", "000.png", "001.png", "broken.png"),
    ]
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "one.png").write_bytes(picture(1))
    with zipfile.ZipFile(flat / "more.zip", "w") as archive:
        archive.writestr("1.png", picture(1))
    with pytest.raises(DataError, match=r"holds pictures, such as .*, beside archives"):
        list_pictures([str(flat)], DataConfig(), tmp_path)


def test_names_of_several_archives_say_which(tmp_path: Path) -> None:
    """Each may call its pictures alike."""
    names = [str(tmp_path / f"{one}.zip") for one in "ab"]
    for name in names:
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("1.png", picture(1))
    (alone,) = list_pictures(names[:1], DataConfig(), tmp_path)
    both = list_pictures(names, DataConfig(), tmp_path)
    assert alone[0] == "a.zip:1.png"
    assert [called for called, _ in both] == [
        f"{names[0]}: a.zip:1.png",
        f"{names[1]}: b.zip:1.png",
    ]


def test_a_kill_before_the_parts_are_put_together_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked again, and the file appears."""
    monkeypatch.setattr(predict, "PART", 4)
    folder, out = write(tmp_path / "in", 6), tmp_path / "out.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(predict, "_merge", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(out, make_classifier(), folder)

    def refuse(*_: object) -> Iterator[object]:
        raise AssertionError

    pictures = list_pictures([str(folder)], DataConfig(), tmp_path)
    done = predict_into(out, refuse, pictures, about={}, progress=lambda _: None)  # type: ignore[arg-type]
    assert (done.pictures, done.taken, done.unread) == (7, 7, 1)
    assert out.exists()


def test_a_file_that_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    """With the kinds that can."""
    with pytest.raises(ConfigError, match=r"write one of \.parquet, \.jsonl, \.csv"):
        refuse_ending(tmp_path / "out.xlsx")
    with pytest.raises(ConfigError, match="there is no folder"):
        refuse_ending(tmp_path / "nowhere" / "out.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match="no file can be written there"):
        refuse_ending(tmp_path / "folder.csv")
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "mine").write_text("not of imgrec")
    with pytest.raises(ConfigError, match="something else is there"):
        run(tmp_path / "out.csv", make_classifier(), write(tmp_path / "in", 1))
    assert (tmp_path / "out.csv.parts" / "mine").exists()
