"""Everything behind the doors of one server."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from imgrec.classifier import Classifier
from imgrec.config import ServeConfig
from imgrec.data.decode import Pixels
from imgrec.errors import ClassifierError, DecodeError
from imgrec.priors import read_shares
from imgrec.serving.bodies import Bodies
from imgrec.serving.engine import Answer, BusyError, Engine
from imgrec.serving.metrics import Metrics
from imgrec.serving.models import Models, ServedModel
from imgrec.serving.refusal import Refusal
from imgrec.serving.source import ModelSource


class Serving:
    """Models, the engine that asks them, and limits; between `open` and `close` it answers."""

    def __init__(self, source: ModelSource, settings: ServeConfig) -> None:
        """Start the decoding processes.

        Args:
            source: Of the models.
            settings: Limits.
        """
        self.settings, self.metrics = settings, Metrics()
        self.engine = Engine(settings, self.metrics)
        self.models = Models(source, self.engine.start, self.metrics)
        self.bodies = Bodies(settings)

    def open(self) -> None:
        """Load every model, and follow what is wanted from then on.

        Raises:
            ImgrecError: one of them cannot be served.
        """
        try:
            self.models.load()
        except BaseException:
            self.close()
            raise
        self.models.follow(self.settings.follow_seconds)
        # What is loaded stays: a full collection of it would hold up everything for a fifth of a second.
        gc.collect()
        gc.freeze()

    def close(self) -> None:
        """End all threads and processes."""
        self.models.close()
        self.engine.close()

    @contextmanager
    def using(self, name: str) -> Iterator[ServedModel]:
        """The version of a model that answers inside.

        Raises:
            Refusal: there is no such model.
        """
        self.refuse_unknown(name)
        with self.models.using(name) as model:
            yield model

    def refuse_unknown(self, name: str) -> None:
        """Before the body of a request is read.

        Raises:
            Refusal: there is no such model.
        """
        if name not in self.models:
            known = ", ".join(model.name for model in self.models.all())
            raise Refusal(404, f"no such model; there are {known}")

    async def ask(
        self, model: ServedModel, contents: Sequence[bytes], priors: str = ""
    ) -> list[Answer]:
        """What a model says of each encoded picture, or why that one cannot be read.

        Args:
            model: Which.
            contents: Of the pictures' files.
            priors: How frequent classes are where they come from, as text; empty for as in the data.

        Raises:
            Refusal: the priors are wrong, too many pictures wait, or the answer does not come in time.
        """
        try:
            classifier = _with_priors(model.classifier, priors)
        except ClassifierError as error:
            raise Refusal(400, str(error)) from error
        with _in_time():
            return await self.engine.predict(model, contents, classifier)

    async def pixels(self, model: ServedModel, content: bytes) -> Pixels:
        """A picture as a model has it.

        Raises:
            Refusal: it cannot be read, too many pictures wait, or it does not come in time.
        """
        try:
            with _in_time():
                return await self.engine.pixels(model.classifier.decoding, content)
        except DecodeError as error:
            raise Refusal(422, str(error)) from error


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except BusyError as error:
        raise Refusal(429, "too many pictures wait; send it again later") from error
    except TimeoutError as error:
        raise Refusal(503, "the answer did not come in time; send it again later") from error


def _with_priors(classifier: Classifier, priors: str) -> Classifier:
    if not priors:
        return classifier
    return classifier.with_priors(read_shares(priors, classifier.card.class_names))
