"""What is registered and served: recipe, model, class names, priors and temperature in one piece.

On disk it is two files, `classifier.json` and `model.safetensors`. Neither can run code when it is
loaded.
"""

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imgrec.config import Filter, ImageShape, ModelConfig, Resize
from imgrec.config.architectures.architecture import COMPACT
from imgrec.data.content import Content
from imgrec.data.decode import Decoding, Pixels, pictures_at_once
from imgrec.data.depth import FULL_DEPTH, Depth
from imgrec.data.given import Given, as_several, contents_of, name_of
from imgrec.data.guarded import decode_all
from imgrec.errors import ClassifierError, ConfigError, DecodeError
from imgrec.models import build_model
from imgrec.models.build import keep_fp32, lay_out
from imgrec.models.folding import fold_for_good
from imgrec.models.torchvision_network import TorchvisionNetwork
from imgrec.named import CARD
from imgrec.preprocess.recipe import ChannelStatistics, Recipe
from imgrec.preprocess.view import View
from imgrec.promises import Abstention, PredictionSets

FORMAT = 6
READ = (4, 5, 6)
OF_TORCHVISION = 4
"""The format whose networks, but compact ones, are torchvision's; its pictures are stored as the model sees them."""
WEIGHTS = "model.safetensors"
TINY = 1e-9
"""The share of a class that does not occur: its logarithm stays a number."""


class Card(BaseModel):
    """All of a classifier but its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    model: ModelConfig
    image_shape: ImageShape
    """Height, width, channels of what the model sees."""
    stored_shape: ImageShape
    """The same of a picture as it is decoded, in training and in serving."""
    view: View
    """Which part of that the model sees."""
    resize: Resize
    max_pixels: int
    depth: Depth = FULL_DEPTH
    filters: tuple[Filter, ...] = ()
    statistics: ChannelStatistics
    class_names: tuple[str, ...]
    temperature: float = 1.0
    """Logits are divided by it before they become probabilities."""
    log_priors: tuple[float, ...] = ()
    """What is then added to them, K numbers, where training has set the classes' frequencies aside
    (`training.loss.set_aside`): so probabilities are those of the data. Empty where it has not."""
    class_shares: tuple[float, ...] = ()
    """How frequent each class is where the probabilities hold, K numbers; empty where an earlier imgrec made it."""
    label_by: Literal["evidence", "probability"] = "evidence"
    """Which class is the label: the one that the picture speaks for most (its logit), or the most probable one."""
    sets: PredictionSets | None = None
    """None where the calibrating pictures were too few for a promise, or it holds no more."""
    abstention: Abstention | None = None
    """The same of this."""
    made_by: dict[str, Any] = {}
    """For people: settings, data fingerprint and scores of the run that made it."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier says of one picture.

    Attributes:
        label: The class that the picture speaks for most. Where training has set the classes' frequencies
            aside (`train.imbalance`), so does this: it may be a rare class that is not the most probable.
        probability: Of that class.
        probabilities: Of every class, as frequent as they are in the data.
        abstained: The classifier is not sure: the label is its guess.
        possible: Classes of which one is right in the share of all cases that the card states, the label among them;
            empty where nothing is promised.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    abstained: bool = False
    possible: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "label": self.label,
            "probability": self.probability,
            "probabilities": self.probabilities,
            "abstained": self.abstained,
            "possible": list(self.possible),
        }


class Classifier:
    """Encoded pictures in, class names and probabilities out; always in fp32."""

    def __init__(self, card: Card, weights: dict[str, Tensor]) -> None:
        """Put a classifier together.

        Raises:
            ClassifierError: the weights are not those of the model that the card describes.
        """
        keep_fp32()
        self.card = card
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model = _network_of(card)
            model.load_state_dict(weights)
        except (RuntimeError, ConfigError) as error:
            reason = str(error).splitlines()[0]
            msg = f"the weights do not fit the {card.model.arch} on the card: {reason}"
            raise ClassifierError(msg) from error
        self.model = lay_out(model).to(self.device).eval()
        fold_for_good(self.model)
        self.recipe = Recipe(card.statistics, card.filters, view=card.view)
        self.recipe = self.recipe.to(self.device).eval()

    def predict(
        self, pictures: Given | Sequence[Given], names: Sequence[str] | None = None
    ) -> list[Prediction]:
        """Classify pictures.

        Args:
            pictures: One or several: paths, bytes of files (PNG, JPEG, ...), arrays (H, W) or (H, W, C) uint8, or Pillow's.
            names: What to call each in an error; by default its path, or `row 0`, `row 1`, ...

        Raises:
            DecodeError: one of them is not a picture that we can read; the message names it.
        """
        several = as_several(pictures)
        predictions: list[Prediction] = []
        for row, outcome in enumerate(self.predict_each(several)):
            if isinstance(outcome, DecodeError):
                name = names[row] if names else name_of(several[row], row)
                msg = f"{name}: {outcome}"
                raise DecodeError(msg) from outcome
            predictions.append(outcome)
        return predictions

    def predict_each(
        self, pictures: Sequence[Given | Content], decode_workers: int = 0
    ) -> Iterator[Prediction | DecodeError]:
        """The same for each by itself: what is not a picture comes as its error, the others are answered.

        Args:
            pictures: As above.
            decode_workers: Processes that decode; 0 for one a core.
        """
        return self.outcomes(decode_all(contents_of(pictures), self.decoding, decode_workers))

    def outcomes(
        self, decoded: Iterator[Pixels | DecodeError]
    ) -> Iterator[Prediction | DecodeError]:
        """What it says of pictures that were decoded as `decoding` says; what could not be comes as its error."""
        while some := list(itertools.islice(decoded, self.at_once)):
            readable = [pixels for pixels in some if not isinstance(pixels, DecodeError)]
            predictions = self.predictions(self.logits_of(readable)) if readable else iter(())
            for pixels in some:
                yield pixels if isinstance(pixels, DecodeError) else next(predictions)

    @property
    def at_once(self) -> int:
        """Pictures that go through it together at most, for the memory that large ones take."""
        return pictures_at_once(self.recipe.larger_of(self.card.stored_shape))

    @property
    def decoding(self) -> Decoding:
        """How a picture becomes the pixels that it looks at."""
        card = self.card
        return Decoding(card.stored_shape, card.resize, card.max_pixels, card.depth)

    def logits_of(self, pixels: Sequence[Pixels]) -> Tensor:
        """Decoded pictures, (H, W, C) uint8 each, to logits (B, K)."""
        return self.logits(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))  # (B, C, H, W)

    def probabilities(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) uint8 to probabilities (B, K) float32 on the CPU."""
        return torch.softmax(self.calibrated(self.logits(images)), dim=1)

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits (B, K) with temperature and priors, whose softmax are probabilities of the data."""
        scaled = logits / self.card.temperature
        return scaled + torch.tensor(self.card.log_priors) if self.card.log_priors else scaled

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) uint8 to logits (B, K) float32 on the CPU, as they were trained."""
        return self.model(self.recipe(images.to(self.device))).float().cpu()

    def with_card(self, **changed: Any) -> "Classifier":
        """The same classifier with other values on its card, such as another temperature."""
        other = copy.copy(self)  # it has the same network, which nobody changes
        other.card = self.card.model_copy(update=changed)
        return other

    def with_priors(self, shares: Mapping[str, float]) -> "Classifier":
        """The same classifier for pictures in which the classes are differently frequent; the label is the most probable.

        What it promised of sets and precision was for the frequencies of the data, and is given up.

        Args:
            shares: How frequent each class is, in any unit. A class that is not named does not occur.

        Raises:
            ClassifierError: a class is unknown, a share is no number from 0 on, or none is above 0; or an earlier imgrec
                made the classifier, and kept no frequencies.

        Source: Saerens et al. 2002, "Adjusting the Outputs of a Classifier to New a Priori Probabilities".
        """
        card = self.card
        if not card.class_shares:
            msg = "an earlier imgrec made this model and kept no class frequencies; train it again"
            raise ClassifierError(msg)
        if unknown := sorted(set(shares) - set(card.class_names)):
            msg = f"priors: {unknown[0]} is no class of this model; it has {', '.join(card.class_names[:12])}"
            raise ClassifierError(msg)
        total = sum(shares.values())
        if not (math.isfinite(total) and total > 0 and min(shares.values()) >= 0):
            msg = "priors: shares are numbers from 0 on, and one of them is above 0"
            raise ClassifierError(msg)
        wanted = [shares.get(name, 0.0) / total for name in card.class_names]
        known = card.log_priors or (0.0,) * len(wanted)
        moved = [
            prior + math.log(max(new, TINY)) - math.log(old)
            for prior, new, old in zip(known, wanted, card.class_shares, strict=True)
        ]
        return self.with_card(
            log_priors=tuple(moved),
            class_shares=tuple(max(new, TINY) for new in wanted),
            label_by="probability",
            sets=None,
            abstention=None,
        )

    def save(self, folder: Path) -> None:
        """Write both files into a folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: weight.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, weight in self.model.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS)
        text = json.dumps(self.card.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (folder / CARD).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Read what `save` wrote.

        Raises:
            ClassifierError: a file is missing or broken, or from another format.
        """
        with _read_from(folder):
            return cls(read_card(folder), load_file(folder / WEIGHTS))

    def predictions(self, logits: Tensor) -> Iterator[Prediction]:
        """What it says of pictures with these logits (B, K), one after the other."""
        names, sets = self.card.class_names, self.card.sets
        least = self.card.abstention.below if self.card.abstention else 0.0
        probabilities = torch.softmax(self.calibrated(logits), dim=1)
        best = (logits if self.card.label_by == "evidence" else probabilities).argmax(dim=1)
        inside = self.possible(probabilities, best).tolist()
        for label, row, members in zip(best.tolist(), probabilities.tolist(), inside, strict=True):
            yield Prediction(
                names[label],
                row[label],
                dict(zip(names, row, strict=True)),
                abstained=row[label] < least,
                possible=tuple(itertools.compress(names, members)) if sets else (),
            )

    def possible(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Which classes are in the sets of pictures, (B, K); none where nothing is promised.

        Args:
            probabilities: Of the pictures, (B, K).
            labels: What is said of them, (B,); they are always in the sets.
        """
        if self.card.sets is None:
            return torch.zeros_like(probabilities, dtype=torch.bool)
        inside = probabilities.double() >= torch.tensor(self.card.sets.thresholds).double()
        return inside.scatter_(1, labels[:, None], value=True)


def read_card(folder: Path) -> Card:
    """All that `Classifier.save` wrote but the weights.

    Raises:
        ClassifierError: it is missing or broken, or from another format.
    """
    with _read_from(folder):
        raw = json.loads((folder / CARD).read_text(encoding="utf-8"))
        written = raw.get("format") if isinstance(raw, dict) else None
        if written not in READ:
            msg = f"{folder}: format {written}, and this imgrec reads {READ[0]} to {READ[-1]}"
            raise ClassifierError(msg)
        return Card.model_validate(_completed(raw) if written == OF_TORCHVISION else raw)


@contextmanager
def _read_from(folder: Path) -> Iterator[None]:
    """What cannot be read inside is a ClassifierError."""
    try:
        yield
    except FileNotFoundError as error:
        name = Path(error.filename or "").name
        msg = f"{folder}: no classifier there ({name} is missing)"
        raise ClassifierError(msg) from error
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        ValidationError,
        SafetensorError,
    ) as error:
        msg = f"{folder}: a broken classifier: {str(error).splitlines()[0]}"
        raise ClassifierError(msg) from error


def _network_of(card: Card) -> nn.Module:
    num_classes = len(card.class_names)
    if card.format == OF_TORCHVISION and not card.model.is_compact:
        return TorchvisionNetwork(card.model.backbone, card.image_shape, num_classes)
    return build_model(card.model, card.image_shape, num_classes)


def _completed(raw: dict[str, Any]) -> dict[str, Any]:
    """A card of format 4 with what later ones say, still to be checked; it is saved as what it is."""
    model, shape = raw.get("model"), raw.get("image_shape")
    if not isinstance(model, dict) or not isinstance(shape, list):
        return raw
    model = {"backbone": COMPACT} | model
    if model["backbone"] != COMPACT:
        model = {key: model[key] for key in ("arch", "backbone", "pretrained") if key in model}
    return raw | {"model": model, "stored_shape": shape, "view": {"size": shape[:2]}}
