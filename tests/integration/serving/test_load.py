"""The server under load: versions that change, models that fail, more pictures than it can take."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from torch import Tensor

from imgrec.classifier import Classifier
from imgrec.data.decode import Pixels
from imgrec.errors import ClassifierError
from imgrec.evaluation.golden import golden_answers, keep_golden
from imgrec.serving.models import ServedModel
from imgrec.serving.source import FolderSource
from tests.integration.serving.made import Shelf, make_classifier, picture, save, served

VERSIONS = {"1": ("cat", "dog", "owl"), "2": ("katze", "hund", "eule")}


def shelf(folder: Path) -> Shelf:
    folders = {
        version: save(make_classifier(int(version), names), folder / version)
        for version, names in VERSIONS.items()
    }
    return Shelf(folders, "1")


def ask(address: str, session: Any = requests, content: bytes = b"") -> requests.Response:
    url = f"{address}/v1/models/animals/predict"
    return session.post(url, data=content or picture(1), timeout=20)


def wait_for(true: Callable[[], bool]) -> None:
    for _ in range(200):
        if true():
            return
        threading.Event().wait(0.05)
    pytest.fail("it did not come about")


def test_a_swap_under_load_loses_no_request(tmp_path: Path) -> None:
    """Every answer is of exactly one version, which it names; then the old one's thread ends."""
    source = shelf(tmp_path)
    ends = threading.Event()

    def hammer(_: int) -> list[tuple[int, str, str]]:
        answers = []
        with requests.Session() as session:
            while not ends.is_set():
                answer = ask(address, session)
                told = answer.json()
                label = told["predictions"][0]["label"] if answer.ok else ""
                answers.append((answer.status_code, told.get("version", ""), label))
        return answers

    with served(source, follow_seconds=0.1) as (address, serving):
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(hammer, one) for one in range(8)]
            for now in ("2", "1", "2"):
                source.now = now
                wait_for(lambda now=now: serving.models.all()[0].version == now)
                threading.Event().wait(0.3)
            ends.set()
            answers = [answer for one in asked for answer in one.result()]
        threads = Counter(thread.name for thread in threading.enumerate())

    assert {status for status, _, _ in answers} == {200}
    assert {version for _, version, _ in answers} == {"1", "2"}
    assert all(label in VERSIONS[version] for _, version, label in answers)
    assert threads["animals-2-0"] == 1
    assert threads["animals-1-0"] == 0


def test_a_version_that_answers_otherwise_does_not_take_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Than when it was registered: the old one goes on, and the log says so once."""
    source = shelf(tmp_path)
    pictures, answers = golden_answers(make_classifier(2, VERSIONS["2"]))
    first = next(iter(answers.values()))
    first["katze"] += 0.01
    keep_golden(source.folders["2"], pictures, answers)
    with served(source, follow_seconds=0.1) as (address, _):
        source.now = "2"
        wait_for(lambda: "cannot be loaded" in caplog.text)
        threading.Event().wait(0.5)
        told = ask(address).json()
        source.now = "1"  # and back: nothing is to be done
        threading.Event().wait(0.3)

    assert told["version"] == "1"
    assert caplog.text.count("answers otherwise than when it was registered") == 1


def test_what_could_not_be_fetched_for_a_moment_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A version that is broken stays so; a store that is away comes back."""
    source = shelf(tmp_path)
    with served(source, follow_seconds=0.1) as (address, serving):
        source.now, source.breaks_off = "2", "the store is away"
        wait_for(lambda: "the store is away" in caplog.text)
        threading.Event().wait(0.4)
        assert ask(address).json()["version"] == "1"
        source.breaks_off = ""
        wait_for(lambda: serving.models.all()[0].version == "2")

    assert caplog.text.count("the store is away") == 1


def test_a_fault_while_looking_does_not_end_the_looking(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Or the server would answer with an old version for ever."""
    source = shelf(tmp_path)
    with served(source, follow_seconds=0.1) as (_, serving):
        folder = source.folders.pop("2")
        source.now = "2"
        wait_for(lambda: "it is tried again" in caplog.text)
        source.folders["2"] = folder
        wait_for(lambda: serving.models.all()[0].version == "2")


def test_a_folder_whose_files_change_is_another_version(tmp_path: Path) -> None:
    """Its card as much as its weights; a file that is away for a moment changes nothing."""
    folder = save(make_classifier(1, VERSIONS["1"]), tmp_path / "animals")
    source = FolderSource({"animals": folder})
    with served(source, follow_seconds=0.1) as (address, _):
        first = ask(address).json()
        save(make_classifier(1, VERSIONS["1"]).with_card(temperature=3.0), tmp_path / "warm")
        (folder / "classifier.json").rename(folder / "away")
        threading.Event().wait(0.3)
        assert ask(address).json()["version"] == first["version"]
        for file in (tmp_path / "warm").iterdir():
            file.replace(folder / file.name)
        wait_for(lambda: ask(address).json()["version"] != first["version"])


def test_where_nobody_says_what_is_wanted_the_old_version_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A record that is away for a while is no reason to stop."""
    source = shelf(tmp_path)
    with served(source, follow_seconds=0.1) as (address, serving):
        source.fails = "MLflow is away"
        wait_for(lambda: "MLflow is away" in caplog.text)
        threading.Event().wait(0.4)
        assert ask(address).json()["version"] == "1"
        source.fails, source.now = "", "2"
        wait_for(lambda: serving.models.all()[0].version == "2")

    assert caplog.text.count("MLflow is away") == 1


def test_a_model_that_cannot_be_served_is_said_before_anything_listens(tmp_path: Path) -> None:
    """In one line."""
    folder = save(make_classifier(), tmp_path / "animals")
    card = json.loads((folder / "classifier.json").read_text())
    (folder / "classifier.json").write_text(json.dumps(card | {"format": 99}))

    with pytest.raises(ClassifierError, match="format 99"), served(FolderSource({"a": folder})):
        pass
    with pytest.raises(ClassifierError, match="no classifier there"):
        FolderSource({"a": tmp_path})


class Held(Classifier):
    """A classifier whose answers a test lets go, or lets fail."""

    go: threading.Event
    fault: Exception | None = None

    def logits_of(self, pixels: Sequence[Pixels]) -> Tensor:
        self.go.wait(10)
        if self.fault:
            raise self.fault
        return super().logits_of(pixels)


def held() -> Held:
    plain = make_classifier()
    made = Held(plain.card, plain.model.state_dict())
    made.go = threading.Event()
    return made


def test_more_than_may_wait_is_refused_until_there_is_room(tmp_path: Path) -> None:
    """With the status that says: later. What waits is answered all the same."""
    folder = save(make_classifier(), tmp_path / "animals")
    model = ServedModel("animals", "held", held())
    source = FolderSource({"animals": folder})
    with served(source, most_waiting=2, follow_seconds=60) as (address, serving):
        serving.models._take(model)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(ask, address) for _ in range(2)]
            wait_for(lambda: serving.engine._inside == 2)
            refused = ask(address)
            model.classifier.go.set()
            answers = [one.result() for one in waiting]
        after = ask(address)

    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"
    assert [one.status_code for one in [*answers, after]] == [200, 200, 200]


def test_an_answer_that_does_not_come_in_time_is_given_up(tmp_path: Path) -> None:
    """And its place is free again."""
    folder = save(make_classifier(), tmp_path / "animals")
    model = ServedModel("animals", "held", held())
    source = FolderSource({"animals": folder})
    with served(source, answer_seconds=1.0, follow_seconds=60) as (address, serving):
        serving.models._take(model)
        late = ask(address)
        assert serving.engine._inside == 0
        model.classifier.go.set()
        wait_for(lambda: ask(address).status_code == 200)

    assert late.status_code == 503
    assert late.headers["Retry-After"] == "1"


def test_a_fault_of_ours_is_told_to_those_it_struck_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As 500 without a word of where it was; the log has that, and the next request is answered."""
    folder = save(make_classifier(), tmp_path / "animals")
    model = ServedModel("animals", "held", held())
    model.classifier.go.set()
    source = FolderSource({"animals": folder})
    with served(source, follow_seconds=60) as (address, serving):
        serving.models._take(model)
        model.classifier.fault = RuntimeError("no memory at /secret/place")
        struck = ask(address)
        model.classifier.fault = None
        after = ask(address)

    assert struck.status_code == 500
    assert struck.json() == {"error": "a fault of the server; its log has it"}
    assert after.status_code == 200
    assert "/secret/place" in caplog.text


def test_bad_pictures_among_good_ones_change_no_answer(tmp_path: Path) -> None:
    """Random bytes, halves, wrong kinds, all at once: each good picture has its own answer."""
    folder = save(make_classifier(), tmp_path / "animals")
    good = [picture(seed) for seed in range(40)]
    bad = [
        b"",
        b"GIF89a",
        picture(1)[:50],
        bytes(5000),
        b"\xff\xd8\xff" + bytes(300),
        b"RIFF0000WEBP",
    ]
    mixed = [one for row, one in enumerate(good) for one in (bad[row % len(bad)], one)]
    expected = make_classifier().predict(good)
    source = FolderSource({"animals": folder})
    with served(source) as (address, _), ThreadPoolExecutor(16) as pool:
        answers = [*pool.map(lambda one: ask(address, content=one or b"\0"), mixed)]

    assert {one.status_code for one in answers[::2]} == {422}
    for answer, wanted in zip(answers[1::2], expected, strict=True):
        (row,) = answer.json()["predictions"]
        assert row["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-5)
