"""The pictures of a search are drawn whatever came of it."""

from collections.abc import Sequence

import pytest

from imgrec.config import load_config
from imgrec.evaluation.search_pictures import (
    importance_picture,
    optimization_history,
    parallel_coordinates,
)
from imgrec.search.study import Trial

SPACE = [
    "rnn.space.model.tokens=['rows', 'patches']",
    "rnn.space.model.patch_size={choices=[2, 4], when={'model.tokens'=['patches']}}",
]


RNN = load_config(None, ["archs=['rnn']", *SPACE]).branches[0]


ROWS = {d.key: d.ends[0] for d in RNN.space if not d.when}


PATCHES = {**ROWS, "model.tokens": "patches", "model.patch_size": 2}


DONE = dict.fromkeys(range(1, 4), 0.9)


@pytest.mark.parametrize(
    "trials",
    [
        [Trial(0, {}, DONE, "finished")],
        [Trial(0, {}, {}, "failed", reason="x"), Trial(1, PATCHES, {1: 0.5}, "stopped")],
        [
            Trial(0, {}, DONE, "finished"),
            Trial(1, PATCHES, {1: 0.2}, "stopped"),
            Trial(2, PATCHES, {}, "failed", reason="x"),
            Trial(3, PATCHES, {1: 0.95}, "finished"),
        ],
    ],
    ids=["defaults alone", "defaults failed", "all kinds"],
)
def test_every_kind_of_trial_can_be_drawn(trials: Sequence[Trial]) -> None:
    """Alone, failed, stopped, with settings that have a part in some trials only."""
    history = optimization_history(trials, 3, "photos-rnn")
    lines = parallel_coordinates(trials, RNN.space, ROWS, "photos-rnn")
    bars = importance_picture({"train.learning_rate": 0.9, "model.cell": 0.1}, "photos-rnn")
    counted = sum(trial.counts for trial in trials)

    assert f"{len(trials)} trials" in history.axes[0].get_title(loc="left")
    assert f"settings of {counted} trials" in lines.axes[0].get_title(loc="left")
    assert len(bars.axes[0].patches) == 2
    for figure in (history, lines, bars):
        figure.draw_without_rendering()
