"""Registered models as a start: the network and weights of one, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imgrec.classifier import Card, Classifier
from imgrec.config import Arch, Config, load_config
from imgrec.data.decode import encode_png
from imgrec.data.loader import Shard
from imgrec.errors import ClassifierError, ConfigError, TrackingError
from imgrec.models import build_model
from imgrec.tracking.connection import Tracking
from imgrec.tracking.registry import register
from imgrec.tracking.runs import start_run
from imgrec.tracking.tags import SEEN
from imgrec.tracking.versions import fetch_classifier, has_seen
from imgrec.training.learner import Learner, build_learner
from imgrec.training.loop import fit
from pipelines.prepare import Prepared, prepare
from pipelines.record.entries import begins_with
from pipelines.registered import begin_with_registered, learned_from
from tests.conftest import no_progress
from tests.integration.tracking.made import tags

SETTINGS = [
    "ann.model.hidden=[32, 16]",
    "cnn.model.widths=[8, 16]",
    "rnn.model={hidden=16, cell='lstm'}",
    "transformer.model={width=16, depth=1}",
    "train={epochs=2, precision='fp32'}",
]
ARCHS: tuple[Arch, ...] = ("ann", "cnn", "rnn", "transformer")


def prepared_with(tracking: Tracking, storage: Path, *settings: str) -> Prepared:
    config = load_config(None, [f"storage='{storage}'", "data.source='digits'", *settings])
    return prepare(config, no_progress, tracking=tracking)


def trained(prepared: Prepared, arch: Arch) -> Learner:
    learner = build_learner(prepared.specs[arch], torch.device("cpu"), Shard())
    fit(learner, on_epoch=lambda _: None)
    return learner


def registered(
    tracking: Tracking, prepared: Prepared, arch: Arch, name: str, **about: object
) -> int:
    """A short fit, registered; its version."""
    spec, learner = prepared.specs[arch], trained(prepared, arch)
    assert learner.best
    card = Card(
        model=spec.model,
        image_shape=spec.image_shape,
        stored_shape=prepared.store.image_shape,
        view=spec.view,
        resize="fill",
        max_pixels=1_000_000,
        statistics=spec.statistics,
        filters=spec.filters,
        class_names=prepared.store.class_names,
        made_by={"weights": spec.weights and spec.weights.told(), **about},
    )
    classifier = Classifier(card, learner.best.weights)
    with start_run(tracking, "starts", name, {}) as run:
        example = encode_png(prepared.store.images[0])
        version = register(
            run,
            name,
            classifier,
            example,
            tags(learner.best.val.macro_f1) | {"imgrec.arch": arch},
            learned_from(prepared.store, prepared.splits, prepared.weights.start_of(spec.model)),
        ).version
    tracking.client.set_registered_model_alias(name, "champion", version)
    return version


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module", autouse=True)
def first(tracking: Tracking, storage: Path) -> Prepared:
    """A model of each architecture, of the digits, filtered."""
    prepared = prepared_with(
        tracking, storage, *SETTINGS, "preprocess.filters=[{filter='gaussian', sigma=0.5}]"
    )
    for arch in ARCHS:
        registered(tracking, prepared, arch, f"digits-{arch}")
    return prepared


@pytest.mark.parametrize("arch", ARCHS)
def test_a_network_begins_with_all_but_the_last_layer_of_a_registered_one(
    arch: Arch, tracking: Tracking, storage: Path, first: Prepared
) -> None:
    """The card says what network it is and what its pictures go through; classes may be others."""
    few = ["0", "1", "2", "3"]
    prepared = prepared_with(
        tracking,
        storage,
        f"archs=['{arch}']",
        f"{arch}.model.pretrained='models:/digits-{arch}'",
        f"data.classes={few}",
        "train.precision='fp32'",
    )
    spec = prepared.specs[arch]
    learner = build_learner(spec, torch.device("cpu"), Shard())
    assert spec.weights
    theirs = load_file(spec.weights.file)
    mine = {name: one for name, one in learner.model.state_dict().items() if "head" not in name}

    assert spec.model.pretrained == f"models:/digits-{arch}/1"
    assert spec.model.model_dump(exclude={"pretrained"}) == first.specs[arch].model.model_dump(
        exclude={"pretrained"}
    )
    assert (spec.filters, spec.statistics) == (
        first.specs[arch].filters,
        first.specs[arch].statistics,
    )
    assert spec.image_shape == first.specs[arch].image_shape
    assert begins_with(spec.weights.told()) == f"digits-{arch}/1"
    assert mine
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name
    fit(learner, on_epoch=lambda _: None)
    assert learner.best
    assert learner.history[0]["val/accuracy"] > 0.85  # the last layer alone, of the same digits
    assert learner.best.val.accuracy >= 0.9


def test_what_began_with_a_registered_model_tells_so_and_is_served(
    tracking: Tracking, storage: Path
) -> None:
    """The lineage is on the card, link by link; the network is built from the card alone."""
    name = "cnn.model.pretrained='models:/digits-cnn'"
    prepared = prepared_with(tracking, storage, "archs=['cnn']", "train.epochs=2", name)
    version = registered(tracking, prepared, "cnn", "second-cnn")
    again = prepared_with(
        tracking, storage, "archs=['cnn']", f"cnn.model.pretrained='models:/second-cnn/{version}'"
    )
    weights = again.specs["cnn"].weights

    assert weights
    assert weights.told()["name"] == f"second-cnn/{version}"
    assert weights.told()["began_with"]["name"] == "digits-cnn/1"
    assert "began_with" not in weights.told()["began_with"]
    assert "second-cnn" in "".join(again.notes)


def test_a_network_of_timm_begins_with_one_of_ours(
    tracking: Tracking, storage: Path, make_large_photos: Callable[[], Path]
) -> None:
    """It sees the crop, the size and the statistics that the first one saw, whatever the store is."""
    photos = [f"data.source='{make_large_photos()}'", "archs=['cnn']", "data.image_size=64"]
    small = ["cnn.train.batch_size=8", "train.epochs=2", "train.precision='fp32'"]
    one = prepared_with(tracking, storage, *photos, *small)
    registered(tracking, one, "cnn", "photos-cnn")
    two = prepared_with(
        tracking, storage, *photos[:2], *small, "cnn.model.pretrained='models:/photos-cnn@champion'"
    )
    mine, theirs = two.specs["cnn"], one.specs["cnn"]

    assert mine.model.backbone == theirs.model.backbone != "compact"
    assert (mine.view, mine.statistics) == (theirs.view, theirs.statistics)
    assert mine.weights
    assert mine.weights.licence == "apache-2.0"
    assert two.store.image_shape == (128, 128, 3) != one.store.image_shape
    learner = trained(two, "cnn")
    assert learner.best
    assert learner.best.val.accuracy > 0.5


REFUSED = {
    "cnn.model.pretrained='models:/digits-dog'": (TrackingError, "no such model .*digits-cnn"),
    "cnn.model.pretrained='models:/digits-cnn/77'": (TrackingError, "no such model"),
    "cnn.model.pretrained='models:/digits-cnn@best'": (TrackingError, "no such model"),
    "cnn.model.pretrained='models:/digits-ann'": (ConfigError, "is of the architecture ann; name"),
    "cnn.model={pretrained='models:/digits-cnn', widths=[8, 32]}": (ConfigError, "leave it out"),
    "cnn.model={pretrained='models:/digits-cnn', backbone='resnet18'}": (ConfigError, "leave it"),
    "cnn={model={pretrained='models:/digits-cnn'}, space={model={dropout=[0.1]}}}": (
        ConfigError,
        "cnn.space.model has no effect",
    ),
    "cnn.model.pretrained='models:/digits-cnn/one'": (ConfigError, "write models:/NAME"),
}


@pytest.mark.parametrize("setting", REFUSED)
def test_what_cannot_be_begun_with_is_one_line(
    setting: str, tracking: Tracking, storage: Path
) -> None:
    """What is wrong, where, and the cure."""
    kind, words = REFUSED[setting]

    with pytest.raises(kind, match=words) as caught:
        prepared_with(tracking, storage, "archs=['cnn']", setting)
    assert "\n" not in str(caught.value)


def test_other_pictures_than_the_network_was_made_for_are_refused(
    tracking: Tracking, storage: Path, make_folder: Callable[..., Path]
) -> None:
    """Colours for a network of grey pictures; another size for one whose pixels have weights of their own."""
    start = [f"{arch}.model.pretrained='models:/digits-{arch}'" for arch in ARCHS]
    folder = make_folder()

    with pytest.raises(ConfigError, match=r"1 channels, and these have 3; set data\.channels = 1"):
        prepared_with(tracking, storage, "archs=['cnn']", start[1], f"data.source='{folder}'")
    with pytest.raises(ConfigError, match=r"for pictures of 12 x 12 x 1: .* do not fit"):
        prepared_with(tracking, storage, "archs=['ann']", start[0], "data.image_size=12")


def test_a_licence_goes_on_with_the_weights(tracking: Tracking, storage: Path) -> None:
    """What began with weights that no money may be made with is no freer than they."""
    prepared = prepared_with(tracking, storage, "archs=['ann']", *SETTINGS)
    began = {"name": "x", "source": "y", "licence": "cc-by-nc-4.0", "sha256": "0"}
    registered(tracking, prepared, "ann", "bound-ann", weights=began)
    start = "ann.model.pretrained='models:/bound-ann'"

    with pytest.raises(ConfigError, match=r"cc-by-nc-4\.0, does not allow commercial use"):
        prepared_with(tracking, storage, "archs=['ann']", start)
    allowed = prepared_with(
        tracking, storage, "archs=['ann']", start, "pretrained.allow_noncommercial=true"
    )
    assert allowed.specs["ann"].weights
    assert allowed.specs["ann"].weights.licence == "cc-by-nc-4.0"


def test_files_that_are_not_as_they_were_registered_are_refused(
    tracking: Tracking, storage: Path
) -> None:
    """Nobody trains on from weights that somebody has exchanged."""
    prepared = prepared_with(tracking, storage, "archs=['ann']", *SETTINGS)
    registered(tracking, prepared, "ann", "changed-ann")
    version = tracking.client.get_model_version("changed-ann", "1")
    (file,) = (
        Path(version.source.removeprefix("file://")).rglob("model.safetensors")
        if (version.source.startswith("file://"))
        else Path(tracking.artifacts.removeprefix("file://")).rglob(
            f"{version.source.rpartition('/')[2]}/**/model.safetensors"
        )
    )
    file.write_bytes(file.read_bytes()[:-1] + b"\0")

    with pytest.raises(ClassifierError, match="changed-ann/1"):
        prepared_with(tracking, storage, "ann.model.pretrained='models:/changed-ann'")


def test_nothing_is_asked_of_the_record_where_no_model_is_named(storage: Path) -> None:
    """A run of published or random weights needs no registry."""
    config: Config = load_config(None, [f"storage='{storage / 'none'}'"])

    assert begin_with_registered(config) == (config, {})
    named = load_config(
        None, [f"storage='{storage / 'none'}'", "cnn.model.pretrained='models:/x-cnn'"]
    )
    with pytest.raises(TrackingError, match="nothing has been recorded there yet"):
        begin_with_registered(named)


def test_the_probe_of_a_layer_without_a_bias_has_none() -> None:
    """The compact cnn's last layer only multiplies, and scales what comes of it."""
    from imgrec.config import CnnConfig
    from imgrec.training.loss import Loss
    from imgrec.training.probe import fit_probe

    network = build_model(CnnConfig(widths=(8, 16)), (8, 8, 1), 3)
    features = torch.rand(60, 16)
    labels = torch.arange(60) % 3
    features[torch.arange(60), labels] += 1
    loss_fn = Loss("none", (20, 20, 20), 0.0)
    probe = fit_probe(features, labels, loss_fn, 0, biased=False)
    probe.put_into(network)

    assert not probe.bias.any()
    with torch.no_grad():
        logits = network.classify(features)
    torch.testing.assert_close(logits, features @ probe.weight.T)
    assert (logits.argmax(dim=1) == labels).float().mean() > 0.9


def test_what_judges_a_model_and_was_learned_from_before_is_told(
    tracking: Tracking, storage: Path
) -> None:
    """And where nobody knows, it counts as seen."""
    start = ["archs=['ann']", "train.epochs=2", "ann.model.pretrained='models:/digits-ann'"]
    same = prepared_with(tracking, storage, *start)
    other = prepared_with(tracking, storage, *start, "data.split_seed=7")

    assert not [note for note in same.notes if "has learned from" in note]
    (note,) = (note for note in other.notes if "has learned from" in note)
    seen = other.weights.start_of(other.specs["ann"].model)
    assert seen
    counts = seen.seen(other.store, other.splits)
    assert f"{counts['val']:,} val pictures and {counts['test']:,} test pictures" in note
    assert counts["test"] > 0.5 * len(other.splits.test)
    assert has_seen({SEEN: json.dumps(counts)})
    assert has_seen({SEEN: json.dumps({"val": None, "test": None})})
    assert not has_seen({SEEN: json.dumps(seen.seen(same.store, same.splits))})
    assert not has_seen({})
    with start_run(tracking, "starts", "first", {}) as run:
        classifier = Classifier.load(fetch_classifier(tracking, "digits-ann"))
        about = tags(0.9) | {SEEN: json.dumps(counts)}
        example = encode_png(other.store.images[0])
        version = register(run, "new-ann", classifier, example, about, None)
    assert not version.champion
    unknown = prepared_with(
        tracking, storage, *start[:2], "ann.model.pretrained='models:/new-ann/1'"
    )
    assert "what new-ann/1 has learned from is not known" in unknown.notes[-1]
    assert (
        learned_from(
            unknown.store, unknown.splits, unknown.weights.start_of(unknown.specs["ann"].model)
        )
        is None
    )
