"""The models of a server: loaded, checked against their golden pictures, and exchanged when another version is wanted."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgrec.classifier import Classifier
from imgrec.errors import ClassifierError, ImgrecError
from imgrec.evaluation.golden import FILE, answers_of, compare_answers, read_golden
from imgrec.machine import give_memory_back
from imgrec.serving.metrics import Metrics
from imgrec.serving.source import ModelSource
from imgrec.serving.stage import Stage
from imgrec.training.throughput import multiply_adds

LOG = logging.getLogger("imgrec.serving")
END_SECONDS = 5


@dataclass(slots=True)
class ServedModel:
    """One version of a model, ready to answer.

    Attributes:
        name: Such as `digits-cnn`.
        version: As its source calls it.
        classifier: Loaded and checked.
        facts: For people.
        stage: Its thread; None before the engine has started it.
    multiply_adds: Of its network, for one picture.
    users: Requests that it is answering.
    retired: Another version has taken its place, and its thread ends with the last of them.
    """

    name: str
    version: str
    classifier: Classifier
    facts: Mapping[str, str] = field(default_factory=dict)
    stage: Stage[Any] | None = None
    multiply_adds: int = 0
    users: int = 0
    retired: bool = False

    def put(self, item: Any) -> None:
        """Let its thread take a decoded picture."""
        assert self.stage is not None
        self.stage.put(item)

    def close(self) -> None:
        """End its thread after all that was put."""
        assert self.stage is not None
        self.stage.close()


def load_model(source: ModelSource, name: str, version: str) -> ServedModel:
    """A version from its source, which answers its golden pictures as it did when it was registered.

    Raises:
        ImgrecError: it cannot be had, or answers otherwise.
    """
    with source.fetch(name, version) as fetched:
        classifier = Classifier.load(fetched.folder)
        if (fetched.folder / FILE).is_file():
            _refuse_other_answers(classifier, fetched.folder, f"{name}/{version}")
        else:  # of an earlier imgrec, or not registered
            LOG.warning("%s/%s has no golden pictures to be checked with", name, version)
    operations = multiply_adds(classifier.model, classifier.card.image_shape)
    return ServedModel(name, version, classifier, fetched.facts, multiply_adds=operations)


def _refuse_other_answers(classifier: Classifier, folder: Path, name: str) -> None:
    pictures, answers = read_golden(folder)
    parity = compare_answers(answers, answers_of(classifier, pictures))
    if not parity.holds:
        msg = (
            f"{name}: answers otherwise than when it was registered ({parity.where}: "
            f"{parity.largest:.1e}); it is not served"
        )
        raise ClassifierError(msg)


class Models:
    """The models that answer now, and a thread that follows what their source wants."""

    def __init__(
        self, source: ModelSource, start: Callable[[ServedModel], None], metrics: Metrics
    ) -> None:
        """Nothing is loaded yet.

        Args:
            source: Of the models.
            start: Gives a model its thread.
            metrics: To count in.
        """
        self._source, self._start, self._metrics = source, start, metrics
        self._models: dict[str, ServedModel] = {}
        self._lock = threading.Lock()
        self._failed: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def load(self) -> None:
        """Load every model.

        Raises:
            ImgrecError: one of them cannot be served.
        """
        for name in self._source.names():
            self._take(load_model(self._source, name, self._source.wanted(name)))

    def follow(self, seconds: float) -> None:
        """Look every so often which versions are wanted, in a thread."""
        self._thread = threading.Thread(
            target=self._follow, args=(seconds,), name="follow", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the threads; what was put before is answered."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)  # it may be waiting for a record that is away
        for model in self._models.values():
            self._retire(model)

    @contextmanager
    def using(self, name: str) -> Iterator[ServedModel]:
        """The version of a model that answers now, and goes on to answer inside, whatever takes its place.

        Raises:
            KeyError: there is no such model.
        """
        with self._lock:
            model = self._models[name]
            model.users += 1
        try:
            yield model
        finally:
            with self._lock:
                model.users -= 1
                ends = model.retired and not model.users
            if ends:
                model.close()

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def all(self) -> list[ServedModel]:
        """The same of every model."""
        return list(self._models.values())

    def refresh(self) -> None:
        """Load the versions that are wanted by now; where one cannot be loaded, the old one goes on."""
        for name in self._source.names():
            if self._ends.is_set():
                return
            self._refresh(name)

    def _refresh(self, name: str) -> None:
        """The same of one model. What will not change is not tried again; the log says everything once."""
        old, version = self._models.get(name), ""
        try:
            version = self._source.wanted(name)
            if self._failed.get(name, version) != version:
                del self._failed[name]  # another one is wanted by now
            if name in self._failed or (old and old.version == version):
                return
            model = load_model(self._source, name, version)
        except ImgrecError as error:
            if isinstance(error, ClassifierError) and version:
                self._failed[name] = version
                self._metrics.swaps.labels(name, "failed").inc()
            self._say(name, f"version {version or 'that is wanted'} cannot be loaded: {error}", old)
            return
        self._take(model)
        self._said.pop(name, None)
        LOG.warning("%s: version %s answers now", name, version)
        self._metrics.swaps.labels(name, "done").inc()

    def _say(self, name: str, what: str, old: ServedModel | None) -> None:
        if self._said.get(name) != what:
            goes_on = f"version {old.version} goes on" if old else "it is not served"
            LOG.warning("%s: %s; %s", name, what, goes_on)
        self._said[name] = what

    def _take(self, model: ServedModel) -> None:
        self._start(model)
        with self._lock:
            old = self._models.get(model.name)
            self._models[model.name] = model
        self._failed.pop(model.name, None)
        self._metrics.version.labels(model.name, model.version).set(1)
        if old is not None:
            self._metrics.version.remove(model.name, old.version)
            self._retire(old)

    def _retire(self, model: ServedModel) -> None:
        with self._lock:
            model.retired = True
            ends = not model.users
        if ends:
            model.close()
            give_memory_back()

    def _follow(self, seconds: float) -> None:
        while not self._ends.wait(seconds):
            try:
                self.refresh()
            except Exception:  # a fault of ours, or of a library: the next look may be better
                LOG.exception("looking for other versions failed; it is tried again")
