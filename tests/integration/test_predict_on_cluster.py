"""Answers of the nodes of a cluster are those of one process."""

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from imgrec.config import ClusterConfig, DataConfig
from imgrec.data.content import File
from imgrec.data.sources.sample import Named
from imgrec.distributed.nodes import list_nodes
from imgrec.distributed.parts import on_all_nodes
from imgrec.distributed.session import Session, ray_session
from imgrec.errors import ClassifierError, ClusterError, DataError, DecodeError
from pipelines import predict, predict_on_cluster
from pipelines.predict import Here, list_pictures, predict_into
from pipelines.predict_on_cluster import Everywhere, answering
from tests.integration.serving.made import make_classifier, picture


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with ray_session(ClusterConfig(), tmp_path_factory.mktemp("ray") / "log", cpus=2) as up:
        yield up


@pytest.fixture
def pictures(tmp_path: Path) -> list[Named]:
    """Files and members of an archive, one of them broken."""
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for row in range(21):
            archive.writestr(f"{row:02d}.png", b"broken" if row == 5 else picture(row))
    (tmp_path / "alone.png").write_bytes(picture(50))
    names = [str(tmp_path / "some.zip"), str(tmp_path / "alone.png")]
    return list_pictures(names, DataConfig(), tmp_path)


def test_all_nodes_answer_as_one_process_does(
    session: Session, pictures: list[Named], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each picture once and in its place, whoever was first; parts of an earlier command are not done again."""
    monkeypatch.setattr(predict, "PART", 4)
    monkeypatch.setattr(predict_on_cluster, "PIECE", 3)
    classifier = make_classifier()
    alone, spread = tmp_path / "alone.parquet", tmp_path / "spread.parquet"
    predict_into(alone, Here(classifier, 2), pictures, about={}, progress=lambda _: None)

    def first_two(parts: predict.Parts, advance: predict.Advance) -> Iterator[object]:
        answers = Everywhere(session.nodes, classifier, 2)(parts, advance)
        yield next(answers)
        yield next(answers)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_into(spread, first_two, pictures, about={}, progress=lambda _: None)  # type: ignore[arg-type]
    told: list[int] = []
    answer = Everywhere(session.nodes, classifier, 2)
    done = predict_into(spread, answer, pictures, about={}, progress=told.append)

    assert (done.pictures, done.unread, done.taken) == (22, 1, 8)
    assert told[-1] == 22
    ours, theirs = (pq.read_table(one).to_pylist() for one in (spread, alone))
    for one, other in zip(ours, theirs, strict=True):
        for scores in ("probability", "top_probabilities"):
            if one[scores] is not None:
                assert one.pop(scores) == pytest.approx(other.pop(scores), abs=1e-6)
        assert one == other


def test_a_node_without_the_pictures_leaves_them_to_this_machine(
    session: Session,  # noqa: ARG001 - a Ray that is up
    pictures: list[Named],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which of them, is said; no picture counts as unreadable for it."""
    monkeypatch.setattr("pipelines.predict_on_cluster.ray_session", _joined)
    said: list[str] = []
    classifier, cluster = make_classifier(), ClusterConfig()
    with answering(cluster, tmp_path, classifier, pictures, top=2, note=said.append) as answer:
        assert isinstance(answer, Everywhere)
    monkeypatch.setattr("pipelines.predict_on_cluster.node_without", lambda *_: "10.0.0.7")
    with answering(cluster, tmp_path, classifier, pictures, top=2, note=said.append) as answer:
        assert isinstance(answer, Here)
    assert said == [
        "1 node of the cluster answers",
        "10.0.0.7 does not see the pictures, so this machine alone answers",
    ]


def _joined(*_: object) -> "_Joined":
    return _Joined()


class _Joined:
    def __enter__(self) -> Session:
        return Session(tuple(list_nodes()), None, is_local=False)  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> None:
        """It stays up."""


def _doubling(folder: str) -> Callable[[int], int]:
    """Its process dies once."""

    def work(part: int) -> int:
        mark = Path(folder) / "died"
        if part == 3 and not mark.exists():
            mark.touch()
            os._exit(1)
        return 2 * part

    return work


def _dying() -> Callable[[int], int]:
    def work(_: int) -> int:
        os._exit(1)

    return work


def _unbuilt() -> Callable[[int], int]:
    msg = "this model is of another imgrec"
    raise ClassifierError(msg)


def _refusing() -> Callable[[int], int]:
    def work(part: int) -> int:
        msg = f"part {part}: the storage does not answer"
        raise DataError(msg)

    return work


def test_a_part_of_a_worker_that_dies_is_done_by_another(session: Session, tmp_path: Path) -> None:
    """None is missing, and none comes twice."""
    build = partial(_doubling, str(tmp_path))
    done = list(on_all_nodes(session.nodes, build, {n: n for n in range(12)}))
    assert (tmp_path / "died").exists()
    assert sorted(done) == [(n, 2 * n) for n in range(12)]


def test_what_a_part_finds_wrong_arrives_as_it_was_said(session: Session) -> None:
    """And not as an error of Ray's."""
    with pytest.raises(DataError, match=r"^part 1: the storage does not answer$"):
        list(on_all_nodes(session.nodes, _refusing, {1: 1}))


@pytest.mark.chaos
def test_a_part_that_always_takes_its_worker_with_it_is_given_up(
    session: Session,
) -> None:
    """Ray by itself would start workers for ever."""
    with pytest.raises(ClusterError, match=r"^workers died 3 times at the same pictures"):
        list(on_all_nodes(session.nodes, _dying, {1: 1}))


def test_what_cannot_be_built_on_a_node_says_so(session: Session) -> None:
    """As the error that it is."""
    with pytest.raises(ClassifierError, match="of another imgrec"):
        list(on_all_nodes(session.nodes, _unbuilt, {1: 1}))


def test_what_a_node_cannot_read_is_read_here(session: Session, tmp_path: Path) -> None:
    """It may have joined later, and see less than this machine."""
    (tmp_path / "1.png").write_bytes(picture(1))
    named = [("seen", File(str(tmp_path / "1.png"))), ("here alone", _HereAlone(os.getpid()))]
    answer = Everywhere(session.nodes, make_classifier(), 2)
    ((_, table),) = answer({0: named}, lambda _: None)  # type: ignore[dict-item]
    assert [row["error"] for row in table.to_pylist()] == [None, None]


@dataclass(frozen=True)
class _HereAlone:
    """Content that only this process, and those that it starts, can read."""

    pid: int

    def read(self) -> bytes:
        if psutil.Process().pid != self.pid and self.pid not in [
            one.pid for one in psutil.Process().parents()[:1]
        ]:
            msg = "not on this disk"
            raise DecodeError(msg)
        return picture(2)


def test_nothing_is_printed(session: Session, capfd: pytest.CaptureFixture[str]) -> None:
    """Ray Data draws bars and logs plans."""
    list(on_all_nodes(session.nodes, lambda: json.dumps, {0: 0, 1: 1}))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
