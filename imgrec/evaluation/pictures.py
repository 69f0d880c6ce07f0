"""Scores as pictures: matplotlib figures that are logged beside the numbers."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from imgrec.evaluation.fonts import drawable, lettering
from imgrec.training.metrics import MONITOR

# Names of classes and files stand in pictures as they are; between two $ would be a formula.
mpl.rcParams["text.parse_math"] = False
INK, ACCENT, MUTED = "#22303c", "#0b6e99", "#c1652f"
MOST_NAMED_CLASSES = 40
CLASS_NUMBERS = "class_numbers.json"
"""The table beside a picture that has numbers for names."""


def confusion_picture(confusion: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """A confusion matrix: rows are the true classes, each cell its share of the row.

    Shares rather than counts, so that rare classes are as readable as frequent ones; the counts
    stand in the cells as long as they fit.
    """
    counts = confusion.numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(class_names)
    side = float(np.clip(2.4 + 0.46 * classes, 5, 16))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    letters = lettering(class_names)
    text, families = drawable(title)
    axes.set_title(text, color=INK, loc="left", fontsize=12, pad=12, fontfamily=families)
    key = f" (numbers: {CLASS_NUMBERS})" if letters.numbered else ""
    axes.set_xlabel(f"predicted{key}", color=INK)
    axes.set_ylabel("true", color=INK)
    if classes <= MOST_NAMED_CLASSES:
        longest = max(len(name) for name in letters.names)
        axes.set_xticks(
            range(classes),
            letters.names,
            rotation=0 if longest <= 3 else 45,
            ha="center" if longest <= 3 else "right",
            fontfamily=letters.families,
        )
        axes.set_yticks(range(classes), letters.names, fontfamily=letters.families)
    if classes <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.55 else INK
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, format=lambda share, _: f"{share:.0%}")
    bar.set_label("share of the true class", color=INK)
    bar.outline.set_visible(False)
    return figure


def learning_curves(history: Sequence[dict[str, float]], best_epoch: int, title: str) -> Figure:
    """Loss and scores by epoch, with the epoch that was kept marked."""
    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(10, 4), layout="constrained", facecolor="white")
    text, families = drawable(title)
    figure.suptitle(text, color=INK, x=0.01, ha="left", fontsize=12, fontfamily=families)
    left, right = figure.subplots(1, 2)
    lines = {
        left: [
            ("train/loss", "train, augmented and smoothed", MUTED),
            ("val/loss", "validation", ACCENT),
        ],
        right: [
            ("train/accuracy", "train accuracy, augmented", MUTED),
            (MONITOR, "validation macro-F1", ACCENT),
        ],
    }
    for axes, curves in lines.items():
        for key, label, color in curves:
            values = [epoch[key] for epoch in history]
            axes.plot(epochs, values, color=color, label=label, linewidth=1.8)
        axes.axvline(best_epoch, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel("epoch", color=INK)
        axes.grid(axis="y", color="#e6e9ec", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
        axes.legend(frameon=False, fontsize=9)
    left.set_ylabel("loss (nats)", color=INK)
    best = history[best_epoch - 1][MONITOR]
    right.annotate(
        f"kept: epoch {best_epoch}, {best:.3f}",
        (best_epoch, best),
        xytext=(0, -22),
        textcoords="offset points",
        ha="right" if best_epoch > len(history) / 2 else "left",
        fontsize=9,
        color=INK,
    )
    return figure
