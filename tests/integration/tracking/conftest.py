"""A real MLflow store, and a classifier to register."""

import pytest

from imgrec.classifier import Card, Classifier
from imgrec.config import AnnConfig, TrackingConfig
from imgrec.models import build_model
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.preprocess.view import View
from imgrec.tracking.connection import Tracking, connect


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """One new database for the module: to make one takes a second."""
    return connect(TrackingConfig(), tmp_path_factory.mktemp("mlruns"), create=True)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """An untrained classifier; tracking does not care how good it is."""
    config = AnnConfig(hidden=(8,))
    card = Card(
        model=config,
        image_shape=(8, 8, 1),
        stored_shape=(8, 8, 1),
        view=View((8, 8)),
        resize="fill",
        max_pixels=1_000_000,
        statistics=ChannelStatistics((0.3,), (0.4,)),
        class_names=tuple("0123456789"),
    )
    return Classifier(card, build_model(config, (8, 8, 1), 10).state_dict())
