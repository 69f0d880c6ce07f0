"""What to try next, and what is learned from what was tried."""

import math
from pathlib import Path

import pytest

from imgrec.config import Config, load_config
from imgrec.errors import ConfigError
from imgrec.search.study import Study, Trial, best_of
from imgrec.training.spec import FitSpec
from pipelines.prepare import prepare
from tests.conftest import no_progress


def prepared(storage: Path, *settings: str) -> tuple[Config, FitSpec]:
    archs = ["storage='" + str(storage) + "'", "archs=['ann']"]
    config = load_config(None, [*archs, "train.epochs=10", *settings])
    return config, prepare(config, no_progress).specs["ann"]


def study(storage: Path, *settings: str, **known: list[Trial]) -> Study:
    config, spec = prepared(storage, *settings)
    return Study.open(config.branches[0], spec, seed=0, **known)


def ended(number: int, settings: dict[str, object], *scores: float) -> Trial:
    by_epoch = dict(enumerate(scores, start=1))
    return Trial(number, settings, by_epoch, "finished" if len(scores) == 10 else "stopped")


def test_the_first_trial_is_the_defaults(tmp_path: Path) -> None:
    """So that a search never ends below them."""
    asked = study(tmp_path)

    assert asked.ask() == (0, {})
    assert asked.defaults["train.learning_rate"] == 2e-3
    assert asked.defaults["preprocess.shift"] == 0.125  # what the preset says
    number, settings = asked.ask() or (None, {})
    assert number == 1
    assert set(settings) == set(asked.defaults)


def test_a_dimension_has_a_part_only_where_its_condition_holds(tmp_path: Path) -> None:
    """Momentum is drawn with sgd, and never with adamw."""
    asked = study(
        tmp_path,
        "ann.space.train.optimizer=['adamw', 'sgd']",
        "ann.space.train.momentum={low=0.5, high=0.9, when={'train.optimizer'='sgd'}}",
    )
    asked.ask()
    drawn = [(asked.ask() or (0, {}))[1] for _ in range(20)]

    assert {settings["train.optimizer"] for settings in drawn} == {"adamw", "sgd"}
    for settings in drawn:
        assert ("train.momentum" in settings) == (settings["train.optimizer"] == "sgd")


def test_it_goes_towards_what_scored_well(tmp_path: Path) -> None:
    """After 30 trials the best is near the optimum of a score that only the rate decides."""
    asked = study(tmp_path)
    for _ in range(30):
        number, settings = asked.ask() or (0, {})
        rate = settings.get("train.learning_rate", 2e-3)
        score = -abs(math.log10(rate) - math.log10(8e-3))
        asked.tell(ended(number, settings, *[score] * 10))
    importances = asked.importances()

    assert asked.best is not None
    assert asked.best.score > -0.08
    assert asked.best.settings["train.learning_rate"] == pytest.approx(8e-3, rel=0.2)
    assert next(iter(importances)) == "train.learning_rate"
    assert sum(importances.values()) == pytest.approx(1)


def test_the_best_epoch_counts_and_of_two_alike_the_defaults_win(tmp_path: Path) -> None:
    """Not the last epoch, and not a stranger that is no better."""
    asked = study(tmp_path)
    number, settings = asked.ask() or (0, {})
    asked.tell(ended(number, settings, 0.1, 0.9, 0.3))
    number, settings = asked.ask() or (0, {})
    asked.tell(ended(number, settings, 0.9, 0.2))

    assert asked.best is not None
    assert (asked.best.number, asked.best.score) == (0, 0.9)


def test_a_failed_trial_is_never_chosen_and_teaches_nothing(tmp_path: Path) -> None:
    """It is no bad score: why it failed may have nothing to do with its settings."""
    asked = study(tmp_path)
    for state, scores in (("failed", {1: 0.99}), ("finished", dict.fromkeys(range(1, 11), 0.5))):
        number, settings = asked.ask() or (0, {})
        asked.tell(Trial(number, settings, scores, state, reason="x"))  # type: ignore[arg-type]
    states = [trial.state.name for trial in asked._optuna.trials]

    assert asked.best is not None
    assert asked.best.number == 1
    assert states == ["FAIL", "COMPLETE"]


def test_a_stopped_trial_tells_how_it_stood_not_how_it_ended(tmp_path: Path) -> None:
    """Its last score is of an early epoch, and must not count as if it were final."""
    asked = study(tmp_path)
    number, settings = asked.ask() or (0, {})
    asked.tell(ended(number, settings, 0.1, 0.2))
    (known,) = asked._optuna.trials

    assert known.state.name == "PRUNED"
    assert known.intermediate_values == {1: 0.1, 2: 0.2}


def test_after_a_crash_it_knows_what_was_tried_and_repeats_nothing(tmp_path: Path) -> None:
    """Ended trials stay; interrupted ones come first, under their own numbers."""
    before = study(tmp_path)
    trials = []
    for _ in range(6):
        number, settings = before.ask() or (0, {})
        trials.append(ended(number, settings, *[0.1 * number] * 10))
    after = study(tmp_path, ended=trials[:5], interrupted=trials[5:])
    again = after.ask()
    further = after.ask()

    assert again == (5, trials[5].settings)
    assert further is not None
    assert further[0] == 6
    assert further[1] not in [trial.settings for trial in trials]
    assert after.best is not None
    assert after.best.number == 4


def test_a_trial_that_could_not_be_begun_comes_again(tmp_path: Path) -> None:
    """Under its number and with its settings, before any other."""
    asked = study(tmp_path)
    first = asked.ask()
    second = asked.ask()
    assert second is not None
    asked.give_back(second[0])

    assert first == (0, {})
    assert asked.ask() == second
    assert (asked.ask() or (0, {}))[0] == 2


def test_a_space_that_was_tried_out_ends_the_search(tmp_path: Path) -> None:
    """Three combinations are three trials, whatever was asked for."""
    every = [f"ann.space.{d.key}=false" for d in prepared(tmp_path)[0].branches[0].space]
    asked = study(tmp_path, *every, "ann.space.train.label_smoothing=[0.0, 0.1, 0.2]")
    seen = []
    while found := asked.ask():
        seen.append(found[1])

    assert len(seen) == 3
    assert seen[0] == {}


def test_a_default_outside_of_its_range_is_refused(tmp_path: Path) -> None:
    """It could not be the first trial."""
    with pytest.raises(ConfigError, match=r"does not hold the default, 0.002.*set ann\.train"):
        study(tmp_path, "ann.space.train.learning_rate={low=0.1, high=0.2}")


def test_the_score_of_a_trial_is_that_of_the_weights_that_are_kept() -> None:
    """An epoch that small pictures judged may score higher; its weights are not there any more."""
    scores = {1: 0.75, 2: 0.91, 3: 0.83, 4: 0.86}
    trial = Trial(0, {}, scores, "finished", shares={1: 0.5, 2: 0.75, 3: 1.0, 4: 1.0})

    assert trial.score == 0.86
    assert Trial(0, {}, scores, "finished").score == 0.91  # where all pictures are alike


def test_what_was_stopped_early_is_not_best_beside_what_was_trained_to_its_end() -> None:
    """It has no weights that could stand beside theirs."""
    done = Trial(0, {}, dict.fromkeys(range(1, 11), 0.8), "finished")
    stopped = Trial(1, {"train.learning_rate": 0.1}, {1: 0.95}, "stopped")

    assert best_of([done, stopped]) is done
    assert best_of([stopped]) is stopped


def test_trials_that_run_side_by_side_are_told_apart(tmp_path: Path) -> None:
    """Whatever Optuna's own default is in the version that is installed."""
    assert study(tmp_path)._optuna.sampler._constant_liar
