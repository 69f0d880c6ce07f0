"""Pictures to answers: decoded in processes of their own, then recognized in batches.

A request puts each of its pictures into the queue of the decoders. A thread for each decoding process takes what waits,
a few at a time, and hands the pixels to the thread of the model, which takes all that came meanwhile as one batch.
The answers go back to the event loop once a batch.
"""

import asyncio
import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from imgrec.classifier import Classifier, Prediction
from imgrec.config import ServeConfig
from imgrec.data.content import Content, InMemoryFile
from imgrec.data.decode import Decoding, Pixels
from imgrec.data.guarded import decode_with
from imgrec.data.parallel import OwnDecoder
from imgrec.errors import DecodeError
from imgrec.evaluation.golden import golden_pictures
from imgrec.machine import available_cores
from imgrec.serving.metrics import Metrics
from imgrec.serving.models import ServedModel
from imgrec.serving.stage import Stage

LOG = logging.getLogger("imgrec.serving")
AT_ONCE = 8
"""Pictures that a decoding process is given at a time: enough that its pipe costs little, few enough that one bad picture
holds up few."""
LITTLE = 50_000_000
"""Multiply-adds of a batch that one thread does alone: some milliseconds (docs/results.md)."""
WARMING = Decoding((32, 32, 3), "fill", 10_000_000)
Answer = Prediction | DecodeError


class BusyError(Exception):
    """More pictures wait than may wait."""


@dataclass(slots=True)
class _Request:
    """Pictures that are answered together.

    Attributes:
        done: The answers, in order, once all are there.
        answers: Those that have come.
        missing: How many have not.
    """

    done: asyncio.Future[list[Any]]
    answers: list[Any]
    missing: int

    def take(self, place: int, answer: Any) -> None:
        """One more has come."""
        self.answers[place] = answer
        self.missing -= 1
        if self.done.done():
            return
        if isinstance(answer, Exception) and not isinstance(answer, DecodeError):
            self.done.set_exception(answer)
        elif not self.missing:
            self.done.set_result(self.answers)


@dataclass(frozen=True, slots=True)
class _Picture:
    """One of a request, on its way.

    Attributes:
        content: Its bytes.
        how: To decode it.
        request: That waits for it.
        place: In the request.
        model: That is to answer; None where only the pixels are wanted.
        classifier: The model's, or the same with other priors.
    """

    content: Content
    how: Decoding
    request: _Request
    place: int
    model: ServedModel | None = None
    classifier: Classifier | None = None


@dataclass(frozen=True, slots=True)
class _Decoded:
    picture: _Picture
    pixels: Pixels = field(repr=False)


class Engine:
    """All that happens to a picture between the request and its answer."""

    def __init__(self, settings: ServeConfig, metrics: Metrics) -> None:
        """Start the decoding processes."""
        self._settings, self._metrics = settings, metrics
        self._inside = 0
        self._threads = min(torch.get_num_threads(), available_cores())
        workers = settings.decode_workers or available_cores()
        self._lanes = [_Lane(settings.decode_seconds) for _ in range(workers)]
        for lane in self._lanes:
            lane.warm()
        works = [functools.partial(self._decode_some, lane) for lane in self._lanes]
        self._decode = Stage[_Picture]("decode", works, AT_ONCE)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def predict(
        self,
        model: ServedModel,
        contents: Sequence[bytes],
        classifier: Classifier | None = None,
    ) -> list[Answer]:
        """What a model says of each encoded picture, or why that one cannot be read.

        Args:
            model: Which.
            contents: Of the pictures' files.
            classifier: The model's own with other priors.

        Raises:
            BusyError: too many pictures wait.
            TimeoutError: the answer did not come in time.
        """
        answers: list[Answer] = await self._through(
            contents, model.classifier.decoding, model, classifier or model.classifier
        )
        return answers

    async def pixels(self, how: Decoding, content: bytes) -> Pixels:
        """A decoded picture.

        Raises:
            DecodeError: it cannot be read.
            BusyError: too many pictures wait.
            TimeoutError: it did not come in time.
        """
        (answer,) = await self._through([content], how)
        if isinstance(answer, DecodeError):
            raise answer
        pixels: Pixels = answer
        return pixels

    def start(self, model: ServedModel) -> None:
        """Give a model its thread."""
        model.stage = Stage[_Decoded](
            f"{model.name}-{model.version}",
            [self._recognize],
            min(self._settings.most_batch, model.classifier.at_once),
        )

    def close(self) -> None:
        """End the decoding processes; what is inside is lost."""
        self._decode.close()
        self._decode.join()
        for lane in self._lanes:
            lane.end()

    async def _through(
        self,
        contents: Sequence[bytes],
        how: Decoding,
        model: ServedModel | None = None,
        classifier: Classifier | None = None,
    ) -> list[Any]:
        self._loop = loop = asyncio.get_running_loop()
        with self._room_for(len(contents)):
            request = _Request(loop.create_future(), [None] * len(contents), len(contents))
            for place, content in enumerate(contents):
                picture = _Picture(InMemoryFile(content), how, request, place, model, classifier)
                self._decode.put(picture)
            async with asyncio.timeout(self._settings.answer_seconds):
                return await request.done

    @contextmanager
    def _room_for(self, count: int) -> Iterator[None]:
        if self._inside and self._inside + count > self._settings.most_waiting:
            raise BusyError
        self._inside += count
        self._metrics.inside.set(self._inside)
        try:
            yield
        finally:
            self._inside -= count
            self._metrics.inside.set(self._inside)

    def _decode_some(self, lane: "_Lane", pictures: list[_Picture]) -> None:
        """Decode those that somebody still waits for; of several models one group after the other."""
        by_how: dict[Decoding, list[_Picture]] = {}
        for picture in pictures:
            if not picture.request.done.done():
                by_how.setdefault(picture.how, []).append(picture)
        for how, group in by_how.items():
            told: list[tuple[_Picture, Any]] = []
            for picture, pixels in zip(group, lane.decode(group, how), strict=True):
                if isinstance(pixels, Exception) or picture.model is None:
                    told.append((picture, pixels))
                else:
                    picture.model.put(_Decoded(picture, pixels))
            self._tell(told)

    def _recognize(self, batch: list[_Decoded]) -> None:
        """Answer a batch of one model; what goes wrong is told to the requests that wait for it."""
        batch = [one for one in batch if not one.picture.request.done.done()]
        if not batch:
            return
        try:
            told = self._answers(batch)
        except Exception as error:
            told = [(one.picture, error) for one in batch]
        self._tell(told)

    def _answers(self, batch: list[_Decoded]) -> list[tuple[_Picture, Any]]:
        """The network looks at all of them; then each classifier (with priors of its own) says what it makes of that."""
        model = batch[0].picture.model
        assert model is not None
        self._metrics.batch.labels(model.name).observe(len(batch))
        # Of this thread: it wakes the others at each layer, which costs more than they save where there is little to do.
        little = model.multiply_adds * len(batch) < LITTLE
        torch.set_num_threads(1 if little else self._threads)
        logits = model.classifier.logits_of([one.pixels for one in batch])
        told: list[tuple[_Picture, Any]] = []
        rows: dict[int, list[int]] = {}
        for row, one in enumerate(batch):
            rows.setdefault(id(one.picture.classifier), []).append(row)
        for some in rows.values():
            classifier = batch[some[0]].picture.classifier
            assert classifier is not None
            said = classifier.predictions(logits[some])
            told += [(batch[row].picture, answer) for row, answer in zip(some, said, strict=True)]
        return told

    def _tell(self, told: list[tuple[_Picture, Any]]) -> None:
        if told and self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                self._loop.call_soon_threadsafe(_deliver, told)


class _Lane:
    """A decoding process, and another in its place where it is lost."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._decoder: OwnDecoder | None = None

    def warm(self) -> None:
        """Let the process import its decoders before anybody waits for them."""
        self._decode([InMemoryFile(one) for one in golden_pictures().values()], WARMING)

    def decode(self, pictures: Sequence[_Picture], how: Decoding) -> Sequence[Pixels | Exception]:
        """The pixels of each, or why there are none: a DecodeError, or a fault that is not the picture's."""
        try:
            return self._decode([one.content for one in pictures], how)
        except Exception as error:  # the system has ended the process, say; the requests are told
            LOG.exception("a decoding process is lost; another takes its place")
            self.end()
            return [error] * len(pictures)

    def end(self) -> None:
        """End the process; the next picture begins another."""
        if self._decoder is not None:
            self._decoder.end()
            self._decoder = None

    def _decode(self, contents: Sequence[Content], how: Decoding) -> list[Pixels | DecodeError]:
        self._decoder = self._decoder or OwnDecoder(self._seconds)
        return decode_with(self._decoder, contents, how)


def _deliver(told: list[tuple[_Picture, Any]]) -> None:
    for picture, answer in told:
        picture.request.take(picture.place, answer)
