"""What is served: the same after saving, refused when broken, equal to what was trained."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imgrec.classifier import Card, Classifier
from imgrec.config import ARCHS, load_config
from imgrec.data.decode import encode_png
from imgrec.data.loader import Pictures, Shard
from imgrec.errors import ClassifierError, DecodeError
from imgrec.evaluation.scores import evaluate_classifier
from imgrec.promises import Abstention, PredictionSets
from imgrec.training.learner import build_learner
from imgrec.training.loop import evaluate, fit
from pipelines.prepare import Prepared, prepare
from tests.conftest import no_progress


@pytest.fixture(scope="module", params=ARCHS)
def fitted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Classifier, Prepared, dict[str, float]]:
    """A briefly trained classifier, its data, and the scores that training gave it."""
    storage = tmp_path_factory.mktemp("run")
    small = ["train.epochs=2", "cnn.model.widths=[8, 16]", "train.precision='fp32'"]
    config = load_config(None, [f"storage='{storage}'", f"archs=['{request.param}']", *small])
    prepared = prepare(config, no_progress)
    spec = prepared.specs[request.param]
    learner = build_learner(spec, torch.device("cpu"), Shard())
    fit(learner, on_epoch=lambda _: None)
    assert learner.best is not None
    card = Card(
        model=spec.model,
        image_shape=spec.image_shape,
        stored_shape=prepared.store.image_shape,
        view=spec.view,
        resize="fill",
        max_pixels=1_000_000,
        statistics=spec.statistics,
        class_names=prepared.store.class_names,
    )
    for module in (learner.model, learner.evaluated):
        module.load_state_dict(learner.best.weights)
    scores = evaluate(
        learner, Pictures(prepared.store, learner.device), prepared.splits.test
    ).as_metrics("test")
    return Classifier(card, learner.best.weights), prepared, scores


Fitted = tuple[Classifier, Prepared, dict[str, float]]


def test_the_served_scores_are_those_of_training(fitted: Fitted) -> None:
    """One recipe and one model in both places: a difference would be a bug in one of them."""
    classifier, prepared, scores = fitted
    evaluation = evaluate_classifier(
        classifier, prepared.store, prepared.splits.test, trained=(100,) * 10
    )

    assert evaluation.scores.as_metrics("test") == pytest.approx(scores, abs=1e-5)
    assert set(evaluation.by_frequency()) == {"medium_shot_accuracy"}
    assert int(evaluation.confusion.sum()) == len(prepared.splits.test)


def test_bytes_and_pixels_give_the_same_probabilities(fitted: Fitted) -> None:
    """Serving decodes; training reads the store. Both must see the same picture."""
    classifier, prepared, _ = fitted
    pixels = prepared.store.images[:20]
    predictions = classifier.predict([encode_png(image) for image in pixels])
    direct = classifier.probabilities(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2))

    for prediction, row in zip(predictions, direct, strict=True):
        assert list(prediction.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)
        assert prediction.probability == max(prediction.probabilities.values())
        assert prediction.probabilities[prediction.label] == prediction.probability


def test_saved_and_loaded_it_predicts_the_same_and_holds_no_pickle(
    fitted: Fitted, tmp_path: Path
) -> None:
    """Two files, neither of which can run code."""
    classifier, prepared, _ = fitted
    classifier.with_card(temperature=1.7).save(tmp_path)
    loaded = Classifier.load(tmp_path)
    content = encode_png(prepared.store.images[0])

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "classifier.json",
        "model.safetensors",
    ]
    assert loaded.card.temperature == 1.7
    assert loaded.predict([content]) == classifier.with_card(temperature=1.7).predict([content])


def test_a_card_of_the_format_before_is_read(fitted: Fitted, tmp_path: Path) -> None:
    """Models that were registered before go on serving; they promise nothing."""
    classifier, prepared, _ = fitted
    classifier.save(tmp_path)
    file = tmp_path / "classifier.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    for key in ("class_shares", "label_by", "sets", "abstention"):
        del card[key]
    file.write_text(json.dumps(card | {"format": 5}), encoding="utf-8")
    (prediction,) = Classifier.load(tmp_path).predict([encode_png(prepared.store.images[0])])

    assert not prediction.possible
    assert not prediction.abstained
    with pytest.raises(ClassifierError, match="kept no class frequencies"):
        Classifier.load(tmp_path).with_priors({"0": 1})


def test_other_frequencies_follow_bayes(fitted: Fitted) -> None:
    """p(class | picture) is in proportion to what the picture says and how frequent the class is."""
    classifier, prepared, _ = fitted
    names = classifier.card.class_names
    classifier = classifier.with_card(class_shares=(0.1,) * 10)
    told = {name: float(row + 1) for row, name in enumerate(names)}
    contents = [encode_png(image) for image in prepared.store.images[:30]]
    moved = classifier.with_priors(told).predict(contents)

    for before, after in zip(classifier.predict(contents), moved, strict=True):
        weighted = {name: before.probabilities[name] * told[name] for name in names}
        total = sum(weighted.values())
        assert after.probabilities == pytest.approx(
            {name: one / total for name, one in weighted.items()}, abs=1e-5
        )
        assert after.label == max(after.probabilities, key=after.probabilities.__getitem__)


@pytest.mark.parametrize(
    "priors", [{"10": 1.0}, {"0": -1.0}, {"0": 0.0}, {"0": float("nan")}], ids=str
)
def test_priors_that_are_none_are_refused(fitted: Fitted, priors: dict[str, float]) -> None:
    """Rather than answers for a world that cannot be."""
    with pytest.raises(ClassifierError, match="priors"):
        fitted[0].with_card(class_shares=(0.1,) * 10).with_priors(priors)


def test_a_classifier_says_when_it_is_not_sure_and_what_else_it_may_be(fitted: Fitted) -> None:
    """The threshold and the sets of its card."""
    classifier, prepared, _ = fitted
    contents = [encode_png(image) for image in prepared.store.images[:60]]
    sets = PredictionSets(coverage=0.9, thresholds=(0.05,) * 10, by_class=False, pictures=90)
    sure = Abstention(below=0.6, precision=0.9, pictures=90)
    careful = classifier.with_card(sets=sets, abstention=sure)

    for one in careful.predict(contents):
        assert one.abstained == (one.probability < 0.6)
        inside = {name for name, share in one.probabilities.items() if share >= 0.05}
        assert set(one.possible) == inside | {one.label}


def test_no_pictures_give_no_predictions(fitted: Fitted) -> None:
    """An empty request is not an error."""
    assert fitted[0].predict([]) == []


def test_what_is_no_picture_is_refused(fitted: Fitted) -> None:
    """Never guessed."""
    with pytest.raises(DecodeError, match="not a picture"):
        fitted[0].predict([b"hello"])


@pytest.mark.parametrize("damage", ["missing", "json", "format", "shape", "weights"])
def test_a_broken_classifier_is_refused_in_one_line(
    fitted: Fitted, tmp_path: Path, damage: str
) -> None:
    """Better no answer than one from half a model."""
    fitted[0].save(tmp_path)
    card, weights = tmp_path / "classifier.json", tmp_path / "model.safetensors"
    content = json.loads(card.read_text(encoding="utf-8"))
    match damage:
        case "missing":
            weights.unlink()
        case "json":
            card.write_text("{")
        case "format":
            card.write_text(json.dumps(content | {"format": 99}))
        case "shape":
            card.write_text(json.dumps(content | {"class_names": ["a", "b"]}))
        case "weights":
            weights.write_bytes(weights.read_bytes()[:200])

    with pytest.raises(ClassifierError) as caught:
        Classifier.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_weights_on_disk_are_plain_tensors(fitted: Fitted, tmp_path: Path) -> None:
    """Any tool that reads safetensors can look at them."""
    fitted[0].save(tmp_path)

    assert load_file(tmp_path / "model.safetensors").keys() == fitted[0].model.state_dict().keys()


def test_the_label_is_what_the_picture_speaks_for_and_the_probability_that_of_the_data(
    fitted: Fitted,
) -> None:
    """A rare class is found though it is rare, and nobody is told that it is more sure than it is."""
    classifier, prepared, _ = fitted
    shares = torch.tensor([0.91] + [0.01] * 9)
    card = classifier.card.model_copy(update={"log_priors": tuple(shares.log().tolist())})
    other = Classifier(card, classifier.model.state_dict())
    content = [encode_png(image) for image in prepared.store.images[:50]]

    for plain, shifted in zip(classifier.predict(content), other.predict(content), strict=True):
        expected = torch.tensor(list(plain.probabilities.values())) * shares
        assert shifted.label == plain.label
        assert list(shifted.probabilities.values()) == pytest.approx(
            (expected / expected.sum()).tolist(), abs=1e-5
        )
        assert shifted.probability == shifted.probabilities[shifted.label]


def test_what_cannot_be_read_costs_the_others_nothing(fitted: Fitted) -> None:
    """One damaged file among a thousand."""
    classifier, prepared, _ = fitted
    good = [encode_png(image) for image in prepared.store.images[:3]]
    found = list(classifier.predict_each([good[0], b"hello", *good[1:]]))

    assert isinstance(found[1], DecodeError)
    assert [found[0], *found[2:]] == classifier.predict(good)
