"""A search as pictures: how it went, what mattered, and what good settings have in common."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from imgrec.config import Dimension
from imgrec.evaluation.fonts import drawable
from imgrec.evaluation.pictures import ACCENT, INK, MUTED
from imgrec.search.study import DEFAULTS, Trial, best_of

STATES = {"finished": ("o", ACCENT), "stopped": ("o", "#b9c4cc"), "failed": ("x", MUTED)}
COLORS = "viridis"


def optimization_history(trials: Sequence[Trial], epochs: int, title: str) -> Figure:
    """Each trial's best score, the best so far, and how many epochs each was given."""
    figure = Figure(figsize=(9, 5), layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    counted = [trial for trial in trials if trial.counts]
    # A trial that was stopped early is not the best, whatever it had come to.
    chosen = [trial for trial in counted if trial.state == "finished"] or counted
    best = np.maximum.accumulate([trial.score for trial in chosen])
    numbers = [trial.number for trial in chosen]
    upper.step(numbers, best, where="post", color=ACCENT, lw=1.5, label="best so far", zorder=1)
    for state, (marker, color) in STATES.items():
        alike = [trial for trial in trials if trial.state == state]
        scores = [t.score if t.counts else min(t.score for t in counted) for t in alike]
        if alike:
            label = {"finished": "trained to the end", "stopped": "stopped early"}.get(state, state)
            upper.scatter(
                [t.number for t in alike],
                scores,
                marker=marker,
                color=color,
                s=42,
                label=label,
                zorder=2,
            )
    winner = best_of(trials)
    assert winner is not None
    upper.scatter(
        [winner.number],
        [winner.score],
        marker="*",
        s=260,
        color=MUTED,
        zorder=3,
        edgecolor="white",
        label=f"chosen: trial {winner.number}",
    )
    default = next((t for t in counted if t.number == DEFAULTS), None)
    if default:
        upper.axhline(default.score, color=INK, lw=0.8, ls=":", zorder=0)
        upper.annotate(
            "defaults",
            (1, default.score),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color=INK,
        )
    lower.bar(
        [t.number for t in trials],
        [len(t.scores) for t in trials],
        width=0.7,
        color=[STATES[t.state][1] for t in trials],
    )
    lower.axhline(epochs, color=INK, lw=0.8, ls=":")
    lower.set_ylabel("epochs")
    lower.set_xlabel("trial (0 is the defaults)")
    lower.xaxis.get_major_locator().set_params(integer=True)
    upper.set_ylabel("val macro-F1 of the kept epoch")
    gain = f"{winner.score:.4f}" + (f", defaults {default.score:.4f}" if default else "")
    _entitle(upper, f"{title}: {len(trials)} trials, best {gain}")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=5)
    for axes in (upper, lower):
        _bare(axes)
    return figure


def importance_picture(importances: Mapping[str, float], title: str) -> Figure:
    """How much of the variance of the scores each setting explains."""
    names = list(importances)[::-1]
    figure = Figure(figsize=(8, 1.3 + 0.34 * len(names)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    shares = [importances[name] for name in names]
    axes.barh(names, shares, color=ACCENT, height=0.6)
    for row, share in enumerate(shares):
        axes.annotate(
            f"{share:.0%}",
            (share, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.set_xlim(0, max(shares) * 1.15)
    _entitle(axes, f"{title}: what mattered (share of the scores' variance, PED-ANOVA)")
    _bare(axes)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return figure


def parallel_coordinates(
    trials: Sequence[Trial], space: Sequence[Dimension], defaults: Mapping[str, Any], title: str
) -> Figure:
    """One line a trial through the values of its settings, coloured by its score."""
    winner = best_of(trials)
    counted = sorted((t for t in trials if t.counts), key=lambda trial: trial.score)
    figure = Figure(
        figsize=(max(8, 1.6 * (len(space) + 1)), 5), layout="constrained", facecolor="white"
    )
    axes = figure.add_subplot()
    scores = [trial.score for trial in counted]
    # Most trials are alike; the color must tell the good from the best.
    norm = Normalize(float(np.quantile(scores, 0.25)), max(scores) + 1e-9, clip=True)
    colors = ScalarMappable(norm, COLORS)
    for trial in counted:
        settings = trial.settings or defaults
        heights = [_height(d, settings[d.key]) if d.key in settings else math.nan for d in space]
        color = colors.to_rgba(np.array(trial.score))
        _curve(axes, heights, color=color, best=trial is winner)
    for place, dimension in enumerate(space):
        axes.axvline(place, color="#d5dce1", lw=1, zorder=0)
        for height, label in _ticks(dimension):
            axes.annotate(
                label,
                (place, height),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=7,
                va="center",
                color=INK,
                zorder=4,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
            )
    names = [dimension.key.partition(".")[2].replace("_", "\n") for dimension in space]
    axes.set_xticks(range(len(space)), names, fontsize=9)
    axes.set_xlim(-0.15, len(space) - 0.45)
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([])
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(colors, ax=axes, shrink=0.8, pad=0.01)
    bar.set_label("val macro-F1", color=INK)
    bar.outline.set_visible(False)
    _entitle(axes, f"{title}: settings of {len(counted)} trials; the thick line was chosen")
    return figure


def _curve(axes: Axes, heights: Sequence[float], *, color: Any, best: bool) -> None:
    """A smooth line through the heights; a gap where a setting had no part."""
    style = (
        {"lw": 3.0, "alpha": 1.0, "zorder": 3} if best else {"lw": 1.1, "alpha": 0.7, "zorder": 2}
    )
    for place, (left, right) in enumerate(itertools.pairwise(heights)):
        if math.isnan(left) or math.isnan(right):
            continue
        points = [(place, left), (place + 0.4, left), (place + 0.6, right), (place + 1, right)]
        codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
        axes.add_patch(PathPatch(Path(points, codes), fill=False, edgecolor=color, **style))
    dots = [(place, height) for place, height in enumerate(heights) if not math.isnan(height)]
    places, values = zip(*dots, strict=True)
    axes.scatter(places, values, color=[color], s=26 if best else 8, zorder=style["zorder"])


def _height(dimension: Dimension, value: Any) -> float:
    """Where on its axis a value lies, 0 to 1."""
    if dimension.choices:
        return dimension.choices.index(value) / max(1, len(dimension.choices) - 1)
    assert dimension.low is not None
    assert dimension.high is not None
    low, high = float(dimension.low), float(dimension.high)
    if dimension.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _ticks(dimension: Dimension) -> list[tuple[float, str]]:
    if dimension.choices:
        return [(_height(dimension, choice), _short(choice)) for choice in dimension.choices]
    return [(0.0, f"{dimension.low:g}"), (1.0, f"{dimension.high:g}")]


def _short(value: Any) -> str:
    return "·".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _entitle(axes: Axes, title: str) -> None:
    text, families = drawable(title)
    axes.set_title(text, loc="left", color=INK, fontsize=12, fontfamily=families)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9aa5ad")
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.yaxis.label.set_color(INK)
    axes.xaxis.label.set_color(INK)
