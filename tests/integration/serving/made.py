"""Classifiers in folders, a source whose wishes change, and a real server in this process."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imgrec.classifier import Card, Classifier
from imgrec.config import AnnConfig, ServeConfig
from imgrec.errors import TrackingError
from imgrec.evaluation.golden import golden_answers, keep_golden
from imgrec.models import build_model
from imgrec.preprocess.recipe import ChannelStatistics
from imgrec.preprocess.view import View
from imgrec.serving.app import build_app
from imgrec.serving.listen import bind, make_server
from imgrec.serving.server import Serving
from imgrec.serving.source import Fetched, ModelSource

SHAPE = (8, 8, 1)


def make_classifier(
    seed: int = 0, class_names: tuple[str, ...] = ("cat", "dog", "owl")
) -> Classifier:
    """An untrained classifier: serving does not care how good it is."""
    config = AnnConfig(hidden=(16,))
    card = Card(
        model=config,
        image_shape=SHAPE,
        stored_shape=SHAPE,
        view=View(SHAPE[:2]),
        resize="fill",
        max_pixels=4_000_000,
        statistics=ChannelStatistics((0.3,), (0.4,)),
        class_names=class_names,
        class_shares=tuple(1 / len(class_names) for _ in class_names),
    )
    torch.manual_seed(seed)
    return Classifier(card, build_model(config, SHAPE, len(class_names)).state_dict())


def save(classifier: Classifier, folder: Path) -> Path:
    """As a registered one lies in its folder, golden pictures beside it."""
    classifier.save(folder)
    keep_golden(folder, *golden_answers(classifier))
    return folder


@dataclass
class Shelf:
    """A source with versions of one model, of which a test says which is wanted."""

    folders: dict[str, Path]
    now: str
    fails: str = ""
    breaks_off: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        return ["animals"]

    def wanted(self, name: str) -> str:
        assert name == "animals"
        if self.fails:
            raise TrackingError(self.fails)
        return self.now

    @contextmanager
    def fetch(self, name: str, version: str) -> Iterator[Fetched]:
        assert name == "animals"
        if self.breaks_off:
            raise TrackingError(self.breaks_off)
        yield Fetched(self.folders[version], self.facts)


@contextmanager
def served(
    source: ModelSource, token: str = "", hosts: tuple[str, ...] = (), **settings: float
) -> Iterator[tuple[str, Serving]]:
    """Its address, and what is behind it; ended after."""
    config = ServeConfig(**{"port": 0, "follow_seconds": 0.1, **settings})
    serving = Serving(source, config)
    serving.open()
    listening = bind("127.0.0.1", 0)
    server = make_server(build_app(serving, token, hosts), config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", serving
    finally:
        server.should_exit = True
        thread.join(20)
        serving.close()
        assert not thread.is_alive()


def picture(seed: int, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    """A file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
