"""Small fits on a real Ray, and what their driver is told."""

from collections.abc import Callable
from pathlib import Path

import psutil

from imgrec.config import ClusterConfig, load_config
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.events import ProgressEvent, Started
from imgrec.distributed.fit import Fitted, fit_on_workers
from imgrec.distributed.session import Session
from imgrec.errors import TrainingError
from imgrec.training.loop import EpochReport
from imgrec.training.spec import FitSpec
from pipelines.prepare import prepare
from tests.conftest import no_progress, processes_of, write_photos


def specs_for(storage: Path, archs: str, *settings: str) -> dict[str, FitSpec]:
    small = ["train.epochs=3", "ann.model.hidden=[32]", "cnn.model.widths=[8, 16]"]
    changes = [f"storage='{storage}'", f"archs={archs}", *small, *settings]
    specs = prepare(load_config(None, changes), no_progress).specs
    return {f"{arch}-{storage.name}": spec for arch, spec in specs.items()}


class Watched:
    """Collects what the driver is told, and may do something about it."""

    def __init__(self, react: Callable[[ProgressEvent], None] = lambda _: None) -> None:
        self.epochs: dict[str, list[int]] = {}
        self.starts: list[Started] = []
        self._react = react

    def __call__(self, name: str, event: ProgressEvent) -> None:
        match event:
            case Started():
                self.starts.append(event)
            case EpochReport(epoch=epoch):
                self.epochs.setdefault(name, []).append(epoch)
        self._react(event)


def run(
    session: Session, specs: dict[str, FitSpec], storage: Path, watched: Watched, **cluster: object
) -> dict[str, Fitted | TrainingError]:
    config = ClusterConfig(**cluster)
    demand = plan_demand(session.nodes, config)
    return dict(
        fit_on_workers(session, specs, config, demand, storage=storage / "ray", on_event=watched)
    )


WORKERS = "RayTrainWorker", "LoneWorker"


def workers_of_ray() -> list[psutil.Process]:
    """The processes that train at this moment."""
    return [one for kind in WORKERS for one in processes_of(psutil.Process(), kind)]


def photo_specs(storage: Path, *settings: str) -> dict[str, FitSpec]:
    """EfficientNet-Lite0 from its weights, on two dozen photos."""
    return specs_for(
        storage,
        "['cnn']",
        f"data.source='{write_photos(storage / 'photos')}'",
        "data.image_size=64",
        "cnn.model={backbone='tf_efficientnet_lite0'}",
        "train.precision='fp32'",
        "train.batch_size=8",
        *settings,
    )
