"""The same loop on a real Ray with two cores: one or two workers, deaths, and errors."""

from pathlib import Path

import pytest
import torch

from imgrec.config import Arch, ClusterConfig, load_config
from imgrec.data.loader import Pictures, Shard
from imgrec.data.splits import make_splits
from imgrec.data.store import open_store
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.fit import Fitted, fit_on_workers
from imgrec.distributed.session import Session
from imgrec.errors import ClusterError, DivergedError
from imgrec.machine import processor_kind
from imgrec.tracking.connection import connect
from imgrec.tracking.runs import Run
from imgrec.tracking.tags import ARITHMETIC
from imgrec.training.checkpoint import latest_state
from imgrec.training.learner import build_learner
from imgrec.training.loop import evaluate, fit
from imgrec.training.precision import Arithmetic, choose_arithmetic
from pipelines.arithmetic import decide_arithmetic, in_arithmetic
from pipelines.costs.timing import StageClock
from pipelines.observer import Observer
from pipelines.prepare import prepare
from pipelines.record.ledger import Ledger
from pipelines.workflow import Workflow
from tests.conftest import no_progress
from tests.integration.fits import Watched, photo_specs, run, specs_for

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Silent(Observer):
    """Is told, and says nothing."""


def test_a_worker_ends_with_the_weights_of_the_plain_loop_bit_for_bit(
    session: Session, tmp_path: Path
) -> None:
    """Ray carries the loop; it must not change what it computes."""
    specs = specs_for(tmp_path, "['ann', 'cnn']")
    watched = Watched()
    fitted = run(session, specs, tmp_path, watched, cpus_per_worker=2)

    for name, spec in specs.items():
        torch.set_num_threads(2)
        learner = build_learner(spec, torch.device("cpu"), Shard())
        fit(learner, on_epoch=lambda _: None)
        outcome = fitted[name]
        assert isinstance(outcome, Fitted)
        assert learner.best is not None
        assert outcome.best.val == learner.best.val
        for key, value in learner.best.weights.items():
            assert torch.equal(outcome.best.weights[key], value), key
        assert watched.epochs[name] == [1, 2, 3]
    assert list((tmp_path / "ray").iterdir()) == []  # nothing is left behind


def test_the_files_of_the_last_model_stay_until_it_is_scored(
    session: Session, tmp_path: Path
) -> None:
    """Its profile is still to be logged, and a driver that is killed now finds what was trained."""
    specs, config = specs_for(tmp_path, "['ann']"), ClusterConfig()
    outcomes = fit_on_workers(
        session,
        specs,
        config,
        plan_demand(session.nodes, config),
        storage=tmp_path / "ray",
        on_event=Watched(),
        profile=True,
    )
    _, fitted = next(outcomes)
    assert isinstance(fitted, Fitted)
    there = [file.exists() for file in fitted.profile]
    (spec,) = specs.values()
    left = latest_state(tmp_path / "ray", spec.key)

    assert there
    assert all(there)
    assert left
    assert list(outcomes) == []
    assert not left.exists()


def test_two_workers_learn_what_one_learns(session: Session, tmp_path: Path) -> None:
    """The batch is divided, not multiplied, and the gradient is that of the whole batch.

    Without augmentation and dropout, whose draws belong to a worker, and without BatchNorm, whose
    statistics do, the two ways differ by rounding alone.
    """
    settings = [
        "preprocess.augment='none'",
        "train.precision='fp32'",
        "train.batch_size=63",
        "rnn.model.tokens='rows'",
        "rnn.model.hidden=16",
        "rnn.model.dropout=0",
    ]
    specs = specs_for(tmp_path, "['rnn']", *settings)
    (name,) = specs
    one, two = (
        run(session, specs, tmp_path / str(workers), Watched(), workers=workers, cpus_per_worker=1)
        for workers in (1, 2)
    )
    alone, shared = one[name], two[name]

    assert isinstance(alone, Fitted)
    assert isinstance(shared, Fitted)
    spec = specs[name]
    val = len(make_splits(open_store(spec.store), spec.data).val)
    for first, second in zip(alone.history, shared.history, strict=True):
        assert second["train/loss"] == pytest.approx(first["train/loss"], rel=1e-3)
        # Every picture counts once: the accuracy is a whole number of those of the split.
        assert second["val/accuracy"] * val == pytest.approx(round(second["val/accuracy"] * val))
        assert second["val/loss"] == pytest.approx(first["val/loss"], rel=1e-3)


def test_two_workers_train_a_network_with_batch_norm(session: Session, tmp_path: Path) -> None:
    """Their statistics are averaged, so that both evaluate one model: the one that is kept."""
    specs = specs_for(tmp_path, "['cnn']", "train.epochs=12", "train.precision='fp32'")
    ((name, outcome),) = run(session, specs, tmp_path, Watched(), workers=2).items()
    assert isinstance(outcome, Fitted)
    learner = build_learner(specs[name], torch.device("cpu"), Shard())
    learner.evaluated.load_state_dict(outcome.best.weights)
    store = open_store(specs[name].store)
    rows = make_splits(store, specs[name].data).choosing
    alone = evaluate(learner, Pictures(store, learner.device), rows)

    assert outcome.best.val.accuracy > 0.9
    assert alone.accuracy == outcome.best.val.accuracy
    assert alone.loss == pytest.approx(outcome.best.val.loss, rel=1e-5)


@pytest.mark.long
def test_two_workers_probe_and_fine_tune_what_one_does(session: Session, tmp_path: Path) -> None:
    """They divide the features, solve one last layer, and then differ by rounding alone.

    Without augmentation, whose draws belong to a worker. Steps of SGD are as long as their gradients, so rounding
    stays rounding. The two last layers stop at slightly different points around the same minimum, which is flat: a
    loss of 0.6 differs by 2 % where logits differ by 0.006.
    """
    settings = ["preprocess.augment='none'", "cnn.train.optimizer='sgd'", "train.epochs=3"]
    one, two = (
        run(
            session,
            photo_specs(tmp_path / str(workers), *settings, "cnn.train.learning_rate=0.001"),
            tmp_path / str(workers),
            Watched(),
            workers=workers,
            cpus_per_worker=1,
        )
        for workers in (1, 2)
    )
    (alone,), (shared,) = one.values(), two.values()

    assert isinstance(alone, Fitted)
    assert isinstance(shared, Fitted)
    assert len(alone.history) == 3
    for first, second in zip(alone.history, shared.history, strict=True):
        assert second["train/loss"] == pytest.approx(first["train/loss"], rel=2e-2, abs=1e-3)
        assert second["val/loss"] == pytest.approx(first["val/loss"], rel=2e-2, abs=1e-3)


def test_a_model_that_fails_does_not_stop_the_others(session: Session, tmp_path: Path) -> None:
    """Its loss is no number; that is said at once, not after four tries."""
    specs = specs_for(
        tmp_path,
        "['ann', 'cnn']",
        "ann.train.optimizer='sgd'",
        "ann.train.learning_rate=10",
        "ann.train.weight_decay=1",
        "ann.train.max_grad_norm=0",
        "ann.train.warmup=0",
        "ann.train.epochs=300",
    )
    ann, cnn = specs
    watched = Watched()
    fitted = run(session, specs, tmp_path, watched)

    assert isinstance(fitted[ann], DivergedError)
    assert "lower ann.train.learning_rate" in str(fitted[ann])
    assert isinstance(fitted[cnn], Fitted)
    assert len(watched.starts) == 2


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        ({"workers": 3}, "needs 3 times 1 cores, each on one node, and the nodes of Ray have 2"),
        (
            {"workers": 1, "cpus_per_worker": 3},
            "needs 1 times 3 cores, each on one node, and the nodes of Ray have 2",
        ),
        ({"workers": 1, "use_gpu": True}, "needs as many GPUs, and Ray has 0"),
    ],
)
def test_what_the_cluster_can_never_give_is_refused_with_the_numbers(
    session: Session, tmp_path: Path, cluster: dict[str, object], said: str
) -> None:
    """Ray itself would wait for ever."""
    with pytest.raises(ClusterError) as caught:
        run(session, specs_for(tmp_path, "['ann']"), tmp_path, Watched(), **cluster)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "lanes"),
    [([], 2), (["cluster.cpus_per_worker=2"], 1), (["ann.train.budget='60s'"], 1)],
    ids=["left open", "written", "a time was promised"],
)
def test_small_networks_share_the_cores_unless_somebody_has_said_how_many(
    session: Session, tmp_path: Path, settings: list[str], lanes: int
) -> None:
    """The four of the digits, on two cores; what a time leaves room for is measured on both."""
    config = load_config(None, [f"storage='{tmp_path}'", *settings])
    ledger = Ledger(connect(config.tracking, tmp_path, create=True), prepare(config, no_progress))
    specs = list(ledger.prepared.specs.values())
    with ledger.workflow("workflow", "") as begun:
        workflow = Workflow(
            ledger, begun, lambda: session, lambda: None, tmp_path, Silent(), StageClock()
        )
        shared, alone = workflow.demand_of(specs), workflow.demand_of(specs[:1])

    assert (shared.room, shared.cpus) == (lanes, 2 // lanes)
    assert (alone.room, alone.cpus) == (1, 2)


def test_a_run_goes_on_in_the_arithmetic_that_it_was_begun_in(
    session: Session, tmp_path: Path
) -> None:
    """Decided from the nodes once; after that the record decides, whatever the nodes are."""
    config = load_config(None, [f"storage='{tmp_path}'", "archs=['ann', 'cnn']"])
    tracking = connect(config.tracking, tmp_path, create=True)
    ledger = Ledger(tracking, prepare(config, no_progress))

    def workflow_of(run: Run) -> Workflow:
        return Workflow(
            ledger, run, lambda: session, lambda: None, tmp_path, Silent(), StageClock()
        )

    with ledger.workflow("workflow", "") as begun:
        decided = decide_arithmetic(workflow_of(begun))
        elsewhere: dict[Arch, Arithmetic] = {
            arch: "fp32" if taken == "bf16" else "bf16" for arch, taken in decided.items()
        }
        # As if it had been begun on machines of another kind.
        begun.set_tags({ARITHMETIC + arch: taken for arch, taken in elsewhere.items()})
        begun.end("FAILED")
    with ledger.workflow("workflow", "") as again:
        taken = decide_arithmetic(workflow_of(again))

    here = [processor_kind()]
    assert decided == {
        branch.arch: choose_arithmetic("auto", branch.model, here) for branch in config.branches
    }
    assert again.id == begun.id
    assert taken == elsewhere
    spec = ledger.prepared.specs["cnn"]
    assert in_arithmetic(spec, taken).arithmetic == elsewhere["cnn"]
    assert in_arithmetic(spec, taken).key == spec.key
