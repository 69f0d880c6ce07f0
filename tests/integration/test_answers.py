"""What workers answer of the pictures that judge a model: each a part, and together what is served."""

from pathlib import Path

import pytest
import torch

from imgrec.config import ClusterConfig, load_config
from imgrec.distributed.demand import plan_demand
from imgrec.distributed.fit import Fitted, fit_on_workers
from imgrec.distributed.session import Session
from imgrec.evaluation.scores import split_logits
from imgrec.training.answers import read_answers
from pipelines.evaluate import build_classifier
from pipelines.prepare import prepare
from tests.conftest import no_progress

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_answer_what_the_served_model_answers(
    session: Session, tmp_path: Path, workers: int
) -> None:
    """So that scores are those of what is registered, whoever has computed them."""
    settings = [f"storage='{tmp_path}'", "archs=['cnn']", "cnn.model.widths=[8, 16]"]
    prepared = prepare(load_config(None, [*settings, "train.epochs=2"]), no_progress)
    config = ClusterConfig(workers=workers)
    demand = plan_demand(session.nodes, config)
    outcomes = fit_on_workers(
        session,
        prepared.specs,
        config,
        demand,
        storage=tmp_path,
        on_event=lambda *_: None,
        answers=True,
    )
    _, fitted = next(outcomes)
    assert isinstance(fitted, Fitted)
    answered = read_answers(fitted.folder, prepared.splits)
    list(outcomes)

    assert answered
    spec = prepared.specs["cnn"]
    built = build_classifier(prepared, spec, fitted.best, fitted.precision)
    test, _ = split_logits(built.classifier, prepared.store, prepared.splits.test)
    for told, served in zip(answered, (built.val, test), strict=True):
        # Sums of some hundred products in fp32, in another order where a batch has another size.
        assert torch.allclose(told, served, atol=1e-4)
