"""The figures of a report; MLflow keeps the same ones."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from imgrec.evaluation.comparison import Standing
from imgrec.evaluation.corruptions import SEVERITIES, Robustness
from imgrec.evaluation.costs import Costs
from imgrec.evaluation.svg import INK, LINE, SERIES
from imgrec.evaluation.trust import Trust


def intervals_picture(standings: Sequence[Standing]) -> Figure:
    """Accuracy and macro-F1 of each model with their intervals, the first at the top."""
    figure, axes = _figure(0.9 + 0.55 * len(standings))
    shown = standings[::-1]
    measures = (
        ("accuracy", SERIES[0], 0.12, [(one.accuracy, one.accuracy_interval) for one in shown]),
        ("macro-F1", SERIES[1], -0.12, [(one.macro_f1, one.macro_f1_interval) for one in shown]),
    )
    for label, color, shift, scores in measures:
        rows = [row + shift for row in range(len(shown))]
        values = [value for value, _ in scores]
        below = [max(0.0, value - interval.low) for value, interval in scores]
        above = [max(0.0, interval.high - value) for value, interval in scores]
        axes.errorbar(
            values, rows, xerr=(below, above), fmt="o", color=color, label=label, capsize=3
        )
    axes.set_yticks(range(len(shown)), [one.name for one in shown])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    _legend(figure, axes)
    return figure


def cost_picture(models: Sequence[tuple[Standing, Costs]]) -> Figure:
    """Accuracy by the time that one picture takes; a line joins the models that no other beats in both."""
    figure, axes = _figure(3.4)
    for (one, costs), color in zip(models, itertools.cycle(SERIES), strict=False):
        interval = one.accuracy_interval
        reach = [[max(0.0, one.accuracy - interval.low)], [max(0.0, interval.high - one.accuracy)]]
        axes.errorbar([costs.milliseconds], [one.accuracy], yerr=reach, fmt="o", color=color)
        axes.annotate(
            one.name,
            (costs.milliseconds, one.accuracy),
            xytext=(8, 5),
            textcoords="offset points",
            color=color,
            fontsize=10,
        )
    front = pareto([(costs.milliseconds, one.accuracy) for one, costs in models])
    axes.plot(*zip(*front, strict=True), color=INK, linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15)
    axes.set_xlabel("milliseconds for one picture", color=INK)
    axes.set_ylabel("test accuracy", color=INK)
    axes.grid(color=LINE, linewidth=0.8)
    return figure


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, gain) those that no other beats in both, by cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda one: (one[0], -one[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def reliability_picture(models: Sequence[tuple[str, Trust]]) -> Figure:
    """How often a model is right, by how sure it says to be; each circle stands for as many pictures."""
    figure, axes = _figure(3.8)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for (name, trust), color in zip(models, itertools.cycle(SERIES), strict=False):
        _, sure, accuracy = zip(*trust.bins, strict=True)
        axes.plot(sure, accuracy, "o-", color=color, linewidth=1.2, label=name, markersize=5)
    axes.set_xlabel("probability of the answer", color=INK)
    axes.set_ylabel("share of right answers", color=INK)
    axes.grid(color=LINE, linewidth=0.8)
    _legend(figure, axes)
    return figure


def precision_picture(models: Sequence[tuple[str, Trust]]) -> Figure:
    """How many answers are right where a model answers only what it is surest of."""
    figure, axes = _figure(3.4)
    for (name, trust), color in zip(models, itertools.cycle(SERIES), strict=False):
        answered, _, precision = zip(*trust.curve, strict=True)
        axes.plot(answered, precision, color=color, linewidth=1.6, label=name)
    axes.set_xlabel("share of pictures that it answers", color=INK)
    axes.set_ylabel("share of right answers", color=INK)
    axes.grid(color=LINE, linewidth=0.8)
    _legend(figure, axes)
    return figure


def robustness_picture(models: Sequence[tuple[str, Robustness]]) -> Figure:
    """Accuracy by the strength of corruptions, as the mean over their kinds; 0 is the pictures as they are."""
    figure, axes = _figure(3.4)
    for (name, found), color in zip(models, itertools.cycle(SERIES), strict=False):
        means = np.mean(list(found.accuracy.values()), axis=0).tolist()
        strengths = range(SEVERITIES + 1)
        axes.plot(strengths, [found.clean, *means], "o-", color=color, label=name, markersize=4)
    axes.set_xlabel("strength of the corruption", color=INK)
    axes.set_ylabel("accuracy", color=INK)
    axes.set_ylim(0, 1.02)
    axes.grid(color=LINE, linewidth=0.8)
    _legend(figure, axes)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.8, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        frameon=False,
        fontsize=9,
        loc="outside upper left",
        ncols=4,
        labelcolor=INK,
    )
