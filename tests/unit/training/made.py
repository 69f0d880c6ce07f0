"""Small fits of every architecture."""

from pathlib import Path

import torch

from imgrec.config import Arch, load_config
from imgrec.data.loader import Shard
from imgrec.training.learner import Learner, build_learner
from imgrec.training.loop import EpochReport, fit
from imgrec.training.spec import FitSpec
from pipelines.prepare import prepare
from tests.conftest import no_progress

CPU = torch.device("cpu")


SMALL = [
    "ann.model.hidden=[32, 32]",
    "cnn.model.widths=[8, 16]",
    "rnn.model.hidden=16",
    "transformer.model.width=16",
    "transformer.model.depth=1",
]


def spec_for(arch: Arch, storage: Path, *extra: str) -> FitSpec:
    config = load_config(None, [f"storage='{storage}'", "train.epochs=3", *SMALL, *extra])
    return prepare(config, no_progress).specs[arch]


def trained(spec: FitSpec, stop_after: int | None = None, folder: Path | None = None) -> Learner:
    """Fit; with stop_after, save to folder after that epoch and break off."""

    class StoppedError(Exception):
        pass

    learner = build_learner(spec, CPU, Shard())

    def on_epoch(report: EpochReport) -> None:
        if report.epoch == stop_after:
            assert folder is not None
            learner.save(folder)
            raise StoppedError

    try:
        fit(learner, on_epoch=on_epoch)
    except StoppedError:
        learner = build_learner(spec, CPU, Shard())
        assert folder is not None
        learner.restore(folder)
        fit(learner, on_epoch=lambda _: None)
    return learner


def weights(learner: Learner) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in learner.model.state_dict().values()])
