"""Encoded pictures that tasks of Ray decode are those that a worker decodes for itself."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from imgrec.config import ClusterConfig, DataConfig, load_config
from imgrec.data.loader import Pictures, Shard
from imgrec.data.store import prepare_store
from imgrec.distributed import stream
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.events import ProgressEvent, Started
from imgrec.distributed.fit import Fitted, fit_on_workers
from imgrec.distributed.session import Session, ray_session
from imgrec.distributed.stream import StreamedPictures, worth_streaming
from imgrec.training.learner import build_learner
from imgrec.training.loop import fit
from pipelines.prepare import prepare
from tests.conftest import no_progress

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One local Ray for the module: two at once disturb each other."""
    log_file = tmp_path_factory.mktemp("logs") / "ray.log"
    with ray_session(ClusterConfig(), log_file, cpus=2) as up:
        yield up


class Holder:
    def hold(self) -> None:
        pass


def fails_there(rows: np.ndarray, folder: Path) -> np.ndarray:  # noqa: ARG001
    msg = f"no such store: {folder}"
    raise OSError(msg)


def is_wrong(rows: np.ndarray, folder: Path) -> np.ndarray:  # noqa: ARG001
    msg = "a bug of ours"
    raise ValueError(msg)


@pytest.mark.usefixtures("session")
def test_a_stream_has_the_batches_in_their_order(tmp_path: Path) -> None:
    """Of any length, an empty one among them."""
    store = prepare_store(DataConfig(keep="jpeg"), tmp_path, progress=no_progress)
    rng = np.random.default_rng(0)
    choices = [rng.integers(0, len(store.labels), size) for size in (64, 1, 64, 0, 100, 7)]
    streamed = list(StreamedPictures(store, CPU, 1).in_turn(iter(choices)))
    plain = list(Pictures(store, CPU).in_turn(choices))

    assert len(streamed) == len(choices)
    for (rows, one), (_, other) in zip(streamed, plain, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        assert one[0].shape[0] == len(rows)


@pytest.mark.usefixtures("session")
def test_where_nothing_comes_a_worker_decodes_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the node goes that had the free cores; here somebody else holds both."""
    monkeypatch.setattr(stream, "PATIENCE_SECONDS", 2.0)
    store = prepare_store(DataConfig(keep="jpeg"), tmp_path, progress=no_progress)
    choices = [np.arange(start, start + 10) for start in (0, 30, 60)]
    holder = ray.remote(num_cpus=2)(Holder).remote()
    try:
        ray.get(holder.hold.remote())
        pictures = StreamedPictures(store, CPU, 1)
        streamed = list(pictures.in_turn(iter(choices)))
    finally:
        ray.kill(holder)

    assert pictures.broken_by == "nothing came for 2 s"
    for (_, one), (_, other) in zip(streamed, Pictures(store, CPU).in_turn(choices), strict=True):
        assert torch.equal(one[0], other[0])


@pytest.mark.usefixtures("session")
def test_a_stream_that_is_left_leaves_nothing_at_work(tmp_path: Path) -> None:
    """Ray must be able to go down at once, and the cores are others' again."""
    store = prepare_store(DataConfig(keep="jpeg"), tmp_path, progress=no_progress)
    threads = set(threading.enumerate())
    batches = StreamedPictures(store, CPU, 1).in_turn(np.arange(5) for _ in range(1000))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    started = {thread.name for thread in set(threading.enumerate()) - threads}
    whole = ray.remote(num_cpus=2)(lambda: "free")

    assert not started
    assert ray.get(whole.remote(), timeout=30) == "free"


@pytest.mark.usefixtures("session")
def test_a_bug_in_a_task_is_not_taken_for_a_lost_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hide for ever behind a slower run."""
    store = prepare_store(DataConfig(keep="jpeg"), tmp_path, progress=no_progress)
    monkeypatch.setattr(stream, "_decoded", is_wrong)

    with pytest.raises(ValueError, match="a bug of ours"):
        list(StreamedPictures(store, CPU, 1).in_turn([np.arange(5)]))


@pytest.mark.usefixtures("session")
def test_a_file_that_cannot_be_read_there_costs_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be decoded there may be decoded here. A task that ends while it is left ended this process, once in ten."""
    store = prepare_store(DataConfig(keep="jpeg"), tmp_path, progress=no_progress)
    monkeypatch.setattr(stream, "_decoded", fails_there)
    for _ in range(60):
        pictures = StreamedPictures(store, CPU, 1)
        batches = list(pictures.in_turn([np.arange(5), np.arange(5, 9)]))

        assert "no such store" in pictures.broken_by
        assert [len(rows) for rows, _ in batches] == [5, 4]


def test_a_model_comes_out_the_same_whoever_decodes(session: Session, tmp_path: Path) -> None:
    """One core trains; the other decodes, where it is told to, and else has nothing to do."""
    settings = [f"storage='{tmp_path}'", "data.keep=jpeg", "archs=['ann']", "train.epochs=2"]
    spec = prepare(load_config(None, settings), no_progress).specs["ann"]
    cluster, events = ClusterConfig(cpus_per_worker=1), list[ProgressEvent]()
    fits = fit_on_workers(
        session,
        {"ann": spec},
        cluster,
        plan_demand(session.nodes, cluster),
        storage=tmp_path / "ray",
        on_event=lambda _, event: events.append(event),
    )
    ((_, outcome),) = fits
    plain = build_learner(spec, CPU, Shard())
    fit(plain, on_epoch=lambda _: None)

    assert [event.decoders for event in events if isinstance(event, Started)] == [1]
    assert isinstance(outcome, Fitted)
    for streamed, alone in zip(outcome.history, plain.history, strict=True):
        assert streamed["val/loss"] == pytest.approx(alone["val/loss"], rel=1e-4)


def test_only_encoded_pictures_are_streamed_and_only_where_a_core_is_free(tmp_path: Path) -> None:
    """A stream would wait for ever for a core that workers hold."""
    pixels, jpeg = (
        prepare_store(DataConfig(keep=keep), tmp_path, progress=no_progress)
        for keep in ("pixels", "jpeg")
    )
    assert worth_streaming(jpeg, 1)
    assert not worth_streaming(jpeg, 0)
    assert not worth_streaming(pixels, 8)
