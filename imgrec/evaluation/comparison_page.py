"""A comparison of models in words."""

from imgrec.evaluation.comparison import Comparison
from imgrec.evaluation.intervals import Interval


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
