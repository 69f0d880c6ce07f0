"""What a person reads while a run goes on."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from imgrec.distributed.events import Started
from imgrec.models.weights import Weights
from pipelines.cli.pages.live import LiveTable
from tests.unit.training.made import spec_for


def test_workers_that_start_again_say_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where memory ran out more machines of the same kind would not help, and a smaller batch would."""
    first = Started(epochs_done=0, workers=2, device="cpu", precision="fp32")
    with closing(LiveTable()) as screen:
        screen.will_train({"ann": spec_for("ann", tmp_path)})
        screen.worker("ann", first)
        screen.worker("ann", Started(2, 2, "cpu", "fp32", parts=4, shortages=1))
        # A smaller group has larger shares, and so perhaps more parts: that is no lack of memory.
        screen.worker("ann", Started(3, 1, "cpu", "fp32", parts=5, shortages=1))
    lines = [line[10:] for line in capfd.readouterr().err.splitlines()]
    lines = [line for line in lines if "training on" in line or "going on" in line]

    assert lines == [
        "ann: training on 2 workers, cpu, fp32",
        "ann: memory ran out; going on from epoch 2 with a batch in 4 parts",
        "ann: training on 2 workers, cpu, fp32",
        "ann: a worker died; going on from epoch 3",
        "ann: training on 1 worker, cpu, fp32",
    ]


def test_steps_that_are_not_captured_any_more_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A batch in parts is started kernel by kernel, whatever train.cuda_graphs says."""
    spec = spec_for("ann", tmp_path, "train.cuda_graphs=true")
    with closing(LiveTable()) as screen:
        screen.will_train({"ann": spec})
        screen.worker("ann", Started(0, 1, "cuda", "bf16"))
        screen.worker("ann", Started(0, 1, "cuda", "bf16", parts=4, shortages=1))

    assert "a batch in 4 parts, without CUDA graphs" in capfd.readouterr().err


def test_graphs_of_a_probe_are_told_to_be_in_vain(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whether fine-tuning is left out is decided after the settings were checked."""
    weights = Weights("", "", "", "", tmp_path, (224, 224), 0.9, "bicubic", (0.5,), (0.5,))
    spec = replace(
        spec_for("cnn", tmp_path, "train.cuda_graphs=true", "train.epochs=1"), weights=weights
    )
    with closing(LiveTable()) as screen:
        screen.will_train({"cnn": spec})

    assert "and no more (train.finetune); train.cuda_graphs has no effect" in capfd.readouterr().err


def test_seeds_that_train_side_by_side_have_a_row_each(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that starts is no worker of the other's that died, and one that has ended leaves the other's time left."""
    spec = spec_for("ann", tmp_path)
    names = ("ann", "ann seed 1")
    with closing(LiveTable()) as screen:
        screen.will_train(dict.fromkeys(names, spec))
        for name in names:
            screen.worker(name, Started(epochs_done=0, workers=1, device="cpu", precision="fp32"))
        screen.evaluating("ann")
        rows = {name: row.state for name, row in screen._rows.items()}
    lines = [line[10:] for line in capfd.readouterr().err.splitlines()]

    assert rows == {"ann": "evaluating", "ann seed 1": "training"}
    assert [line for line in lines if "worker" in line] == [
        f"{name}: training on 1 worker, cpu, fp32" for name in names
    ]
    assert sum("batch" in line for line in lines) == 1  # what they have in common is said once
