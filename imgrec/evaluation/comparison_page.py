"""A comparison of models, to look at."""

from matplotlib.figure import Figure

from imgrec.evaluation.comparison import Comparison, Standing
from imgrec.evaluation.fonts import drawable
from imgrec.evaluation.intervals import Interval
from imgrec.evaluation.pictures import ACCENT, INK, MUTED


def comparison_picture(comparison: Comparison, title: str) -> Figure:
    """Accuracy and macro-F1 of each model with their intervals, the best at the top."""
    standings = comparison.standings[::-1]
    figure = Figure(
        figsize=(8, 1.6 + 0.55 * len(standings)), layout="constrained", facecolor="white"
    )
    axes = figure.add_subplot()
    text, families = drawable(title)
    axes.set_title(text, color=INK, loc="left", fontsize=12, pad=12, fontfamily=families)
    measures = (
        ("accuracy", ACCENT, 0.12, [(one.accuracy, one.accuracy_interval) for one in standings]),
        ("macro-F1", MUTED, -0.12, [(one.macro_f1, one.macro_f1_interval) for one in standings]),
    )
    for label, color, shift, scores in measures:
        rows = [row + shift for row in range(len(standings))]
        values = [value for value, _ in scores]
        below = [max(0.0, value - interval.low) for value, interval in scores]
        above = [max(0.0, interval.high - value) for value, interval in scores]
        axes.errorbar(
            values, rows, xerr=(below, above), fmt="o", color=color, label=label, capsize=3
        )
    axes.set_yticks(range(len(standings)), [_label(one) for one in standings])
    axes.set_ylim(-0.6, len(standings) - 0.4)
    axes.set_xlabel(f"on {comparison.pictures:,} test pictures, with 95 % intervals", color=INK)
    axes.grid(axis="x", color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    figure.legend(frameon=False, fontsize=9, loc="outside right upper")
    return figure


def comparison_in_markdown(comparison: Comparison) -> str:
    """A table and the verdicts, as MLflow shows them."""
    lines = [
        f"**{comparison.pictures:,} test pictures, with 95 % intervals.** Models of one rank cannot be told apart.",
        "",
        "| rank | model | accuracy | macro-F1 | begins with |",
        "|---|---|---|---|---|",
        *(
            f"| {one.rank} | {one.name} | {scored(one.accuracy, one.accuracy_interval)} "
            f"| {scored(one.macro_f1, one.macro_f1_interval)} | {one.begins_with} |"
            for one in comparison.standings
        ),
        "",
        *(f"- {line}" for line in comparison.lines()),
    ]
    return "\n".join(lines)


def scored(value: float, interval: Interval) -> str:
    """`0.964 (0.940 to 0.979)`."""
    return f"{value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _label(one: Standing) -> str:
    return f"{one.name}, rank {one.rank}"
