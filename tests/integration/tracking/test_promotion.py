"""Who becomes champion: real models of the digits, judged on the same pictures, and every decision on record."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

from imgrec.config import PromoteConfig, load_config
from imgrec.data.decode import encode_png
from imgrec.data.loader import Shard
from imgrec.errors import TrackingError
from imgrec.tracking import promotion
from imgrec.tracking.connection import Tracking
from imgrec.tracking.promotion import decisions, roll_back
from imgrec.tracking.query import fetch_file
from imgrec.tracking.registry import register
from imgrec.tracking.runs import start_run
from imgrec.tracking.tags import PARITY
from imgrec.tracking.versions import (
    RegisteredVersion,
    champion_of,
    fetch_classifier,
    find_challenger,
)
from imgrec.training.learner import Learner, build_learner
from imgrec.training.loop import fit
from pipelines.evaluate import build_classifier, evaluate
from pipelines.prepare import Prepared, prepare
from pipelines.promote import promote
from pipelines.record.entries import ANSWERS, record_inputs
from pipelines.registered import learned_from
from tests.conftest import no_progress

RULES = PromoteConfig()


@dataclass(frozen=True)
class Made:
    """A model that was trained, and what it was trained on."""

    prepared: Prepared
    learner: Learner


def made(storage: Path, *settings: str) -> Made:
    config = load_config(
        None,
        [
            f"storage='{storage}'",
            "archs=['ann']",
            "ann.model.hidden=[32]",
            "train.precision='fp32'",
            *settings,
        ],
    )
    prepared = prepare(config, no_progress)
    learner = build_learner(prepared.specs["ann"], torch.device("cpu"), Shard())
    fit(learner, on_epoch=lambda _: None)
    return Made(prepared, learner)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def bad(storage: Path) -> Made:
    """Hardly trained."""
    return made(storage, "train={epochs=3, learning_rate=0.003, optimizer='adamw'}")


@pytest.fixture(scope="module")
def good(storage: Path) -> Made:
    return made(storage, "train.epochs=8")


@pytest.fixture(scope="module")
def other_seed(storage: Path) -> Made:
    return made(storage, "train.epochs=8", "seed=1")


def registered(tracking: Tracking, name: str, model: Made) -> RegisteredVersion:
    """As a run leaves it: a challenger, with its answers, and what it was trained on above it."""
    prepared, spec, best = model.prepared, model.prepared.specs["ann"], model.learner.best
    assert best
    with start_run(tracking, "promotions", "flow", {}) as flow:
        record_inputs(flow, prepared.config, prepared)
        run = flow.start_child(name, {})
        classifier = build_classifier(prepared, spec, best, "fp32").classifier
        evaluation = evaluate(classifier, prepared, spec, best, "fp32")
        file = prepared.store.folder.parent / ANSWERS
        evaluation.answers.save(file)
        run.log_file(file)
        tags = {
            "imgrec.arch": "ann",
            "data.fingerprint": prepared.store.fingerprint,
            "data.splits": prepared.splits.digest(prepared.store),
            "code.version": "0",
            **evaluation.scores.as_metrics("test"),
        }
        example = encode_png(prepared.store.images[0])
        learned = learned_from(prepared.store, prepared.splits, None)
        return register(run, name, classifier, example, tags, learned)


def asked_for(
    tracking: Tracking, storage: Path, version: RegisteredVersion, **how: bool
) -> tuple[str, str, int]:
    """The outcome, the reason, and who is champion then."""
    verdict, after = promote(tracking, storage, version, RULES, "a test", **how)
    champion = champion_of(tracking, version.name)
    assert after.champion_version == (int(champion.version) if champion else 0)
    return verdict.outcome, verdict.reason, after.champion_version


def test_the_life_of_a_champion(
    tracking: Tracking, storage: Path, bad: Made, good: Made, other_seed: Made
) -> None:
    """A first one, a better one, one of another seed and a worse one refused, a rollback, and all of it told."""
    first = asked_for(tracking, storage, registered(tracking, "life", bad))
    better = asked_for(tracking, storage, registered(tracking, "life", good))
    same = asked_for(tracking, storage, registered(tracking, "life", other_seed))
    worse = asked_for(tracking, storage, registered(tracking, "life", bad))

    assert (first[0], first[2]) == ("promoted", 1)
    assert "it beats whoever always says" in first[1]
    assert (better[0], better[2]) == ("promoted", 2)
    assert "it is better: " in better[1]
    for refused in (same, worse):
        assert (refused[0], refused[2]) == ("refused", 2)
        assert "version 2 stays champion, for it is not better beyond chance" in refused[1]
    assert roll_back(tracking, "life", "a test") == ("2", "1")
    assert [(one.outcome, one.version, one.before) for one in decisions(tracking, "life")] == [
        ("rolled back", "1", "2"),
        ("refused", "4", "2"),
        ("refused", "3", "2"),
        ("promoted", "2", "1"),
        ("promoted", "1", ""),
    ]
    with pytest.raises(TrackingError, match="version 1 was the first champion"):
        roll_back(tracking, "life", "a test")
    with pytest.raises(TrackingError, match="life/1: is champion already"):
        asked_for(tracking, storage, find_challenger(tracking, "life", 1))
    levels = [
        json.loads(file.read_text())["evidence"]["level"]
        for one in reversed(decisions(tracking, "life")[1:])
        for file in [fetch_file(tracking, one.run_id, "decision.json", storage)]
        if file
    ]
    assert levels == pytest.approx([0.05 / (k * (k + 1)) for k in (1, 2, 3, 4)])
    two, model = (
        tracking.client.get_model_version("life", "2"),
        tracking.client.get_registered_model("life"),
    )
    assert two.tags["imgrec.reason"] == "version 1 became champion"
    assert "**Not champion**: version 1 became champion." in two.description
    assert "**Version 1 is champion**: version 2 is taken back." in model.description
    assert set(model.tags) == {"accuracy", "data", "architecture"}


def test_other_data_and_other_classes_are_neither_compared_nor_replaced_silently(
    tracking: Tracking, storage: Path, bad: Made
) -> None:
    """The line says what to do, and that does it."""
    asked_for(tracking, storage, registered(tracking, "other", bad))
    few = made(storage, "train.epochs=8", "data.classes=['0', '1', '2', '3']")
    cut = made(storage, "train.epochs=8", "data.split_seed=5")
    for model, said in ((cut, "that was scored on other pictures"), (few, "that knows other")):
        version = registered(tracking, "other", model)
        refused = asked_for(tracking, storage, version)
        assert (refused[0], refused[2]) == ("refused", 1)
        assert said in refused[1]
        assert "imgrec promote other --accept-new-data" in refused[1]
    # Of the test pictures of the other cut the champion has learned most, and they judge nothing.
    over = asked_for(tracking, storage, find_challenger(tracking, "other", 2), accept_new_data=True)
    assert over[0] == "promoted"
    told = decisions(tracking, "other")[0]
    file = fetch_file(tracking, told.run_id, "decision.json", storage)
    assert file
    evidence = json.loads(file.read_text())["evidence"]
    assert 20 <= evidence["pictures"] < 0.6 * len(cut.prepared.splits.test)
    assert asked_for(
        tracking, storage, find_challenger(tracking, "other", 3), accept_new_data=True
    )[::2] == ("promoted", 3)


def test_an_error_of_the_server_changes_nothing(
    tracking: Tracking, storage: Path, bad: Made, good: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any call on the way; what was not carried out is told as interrupted."""
    asked_for(tracking, storage, registered(tracking, "errors", bad))
    version = registered(tracking, "errors", good)

    def fail(*_: object, **__: object) -> None:
        msg = "the database is away"
        raise MlflowException(msg)

    for call in ("get_registered_model", "create_run", "log_dict", "set_registered_model_alias"):
        with monkeypatch.context() as patched:
            patched.setattr(tracking.client, call, fail)
            with pytest.raises(TrackingError, match="the database is away"):
                promote(tracking, storage, version, RULES, "a test")
        champion = champion_of(tracking, "errors")
        assert champion
        assert int(champion.version) == 1
    assert [one.outcome for one in decisions(tracking, "errors")] == [
        "interrupted",
        "interrupted",
        "promoted",
    ]
    assert asked_for(tracking, storage, version)[::2] == ("promoted", 2)


@pytest.mark.parametrize("count", [3, pytest.param(10, marks=pytest.mark.chaos)])
def test_promotions_at_once_leave_one_champion_and_a_record_each(
    count: int, tracking: Tracking, storage: Path, good: Made
) -> None:
    """Each in a process of its own: one of them promotes, and the others are told that it is champion already."""
    name = f"race-of-{count}"
    version = registered(tracking, name, good)
    code = f"""
import sys
from pathlib import Path
from imgrec.config import PromoteConfig, TrackingConfig
from imgrec.tracking.connection import connect
from imgrec.tracking.versions import find_challenger
from pipelines.promote import promote
tracking = connect(TrackingConfig(), Path({tracking.uri.removeprefix("sqlite:///")!r}).parent, create=False)
version = find_challenger(tracking, {name!r}, {version.version})
print("ready", flush=True)
sys.stdin.readline()
print(promote(tracking, Path({str(storage)!r}), version, PromoteConfig(), {name!r})[0].outcome)
"""
    racers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for one in racers:
        assert one.stdout
        assert one.stdout.readline() == "ready\n"
    ends = [one.communicate("go\n")[0].strip() for one in racers]

    outcomes = ["promoted"] + ["refused"] * (count - 1)
    assert sorted(ends) == outcomes
    assert sorted(one.outcome for one in decisions(tracking, name)) == outcomes
    champion = champion_of(tracking, name)
    assert champion
    assert champion.version == version.version


def test_what_learned_from_unknown_pictures_stays_challenger(
    tracking: Tracking, storage: Path, good: Made
) -> None:
    """Where there is no champion as well as over one."""
    prepared, best = good.prepared, good.learner.best
    assert best
    with start_run(tracking, "promotions", "flow", {}) as flow:
        record_inputs(flow, prepared.config, prepared)
        run = flow.start_child("unknown", {})
        classifier = build_classifier(prepared, prepared.specs["ann"], best, "fp32").classifier
        answers = evaluate(classifier, prepared, prepared.specs["ann"], best, "fp32").answers
        answers.save(storage / ANSWERS)
        run.log_file(storage / ANSWERS)
        version = register(
            run, "unknown", classifier, encode_png(prepared.store.images[0]), {"a": "b"}, None
        )
    outcome, reason, champion = asked_for(tracking, storage, version)

    assert (outcome, champion) == ("refused", 0)
    assert "there is no champion, for what it began with may have learned" in reason
    assert np.isin(answers.predicted, range(10)).all()
    assert promotion.decisions_on(tracking, "unknown", answers.digest()) == 0


def test_what_cannot_be_asked_stays_and_the_reason_is_told(
    tracking: Tracking, storage: Path, bad: Made, good: Made
) -> None:
    """A champion whose files were changed, or pictures that are gone, end no run: the version is registered."""
    asked_for(tracking, storage, registered(tracking, "changed", bad))
    version = registered(tracking, "changed", good)
    file = fetch_classifier(tracking, "changed/1") / "model.safetensors"
    kept = file.read_bytes()
    file.write_bytes(kept[:-1] + b"\0")
    outcome, reason, champion = asked_for(tracking, storage, version)

    assert (outcome, champion) == ("refused", 1)
    assert "version 1 stays champion, for they could not be compared: changed/1" in reason
    file.write_bytes(kept)
    assert asked_for(tracking, storage, version)[::2] == ("promoted", 2)
    assert len(decisions(tracking, "changed")) == 3


def test_a_model_that_is_too_large_too_slow_or_not_seen_to_answer_alike_stays_challenger(
    tracking: Tracking, storage: Path, good: Made
) -> None:
    """Whatever it recognizes: limits that somebody has set hold for every champion."""
    version = registered(tracking, "limits", good)
    outcomes = {}
    for key, value in (("most_megabytes", 0.001), ("most_milliseconds", 1e-6)):
        rules = RULES.model_copy(update={key: value})
        verdict, _ = promote(tracking, storage, version, rules, "a test")
        outcomes[key] = (verdict.outcome, verdict.reason)
    bare = replace(version, tags={k: v for k, v in version.tags.items() if k != PARITY})
    unseen, _ = promote(tracking, storage, bare, RULES, "a test")
    last, _ = promote(tracking, storage, version, RULES, "a test")

    assert outcomes["most_megabytes"][0] == outcomes["most_milliseconds"][0] == "refused"
    assert "MB, and promote.most_megabytes allows 0.001" in outcomes["most_megabytes"][1]
    assert "ms, and promote.most_milliseconds allows 1e-06" in outcomes["most_milliseconds"][1]
    assert unseen.outcome == "refused"
    assert "answers the same wherever it is loaded" in unseen.reason
    # Nothing was compared, so the test set is as good as before.
    assert last.outcome == "promoted"
    assert last.evidence["evidence"]["number"] == 1
