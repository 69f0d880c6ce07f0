"""A comparison of models in words."""

from imgrec.evaluation.comparison import Comparison
from imgrec.evaluation.intervals import Interval


def comparison_in_markdown(comparison: Comparison) -> str:
    """A table and the verdicts, as MLflow shows them."""
    verdicts = comparison.lines()
    lines = [
        *([f"**{comparison.sentence(verdicts[0])}.**", ""] if verdicts else []),
        f"{comparison.pictures:,} test pictures, with 95 % intervals. Of the models of one rank none is better than another.",
        "",
        "| rank | model | accuracy | macro-F1 | begins with |",
        "|---|---|---|---|---|",
        *(
            f"| {one.rank} | {one.name} | {scored(one.accuracy, one.accuracy_interval)} "
            f"| {scored(one.macro_f1, one.macro_f1_interval)} | {one.begins_with} |"
            for one in comparison.standings
        ),
        "",
        *(f"- {line}" for line in verdicts[1:]),
    ]
    return "\n".join(lines)


def scored_fully(value: float, interval: Interval, pictures: int) -> str:
    """`0.964 (95 % interval 0.940 to 0.979) on 360 test pictures`, where nothing around it says what they are."""
    return f"{value:.3f} (95 % interval {interval.low:.3f} to {interval.high:.3f}) on {pictures:,} test pictures"


def scored(value: float, interval: Interval) -> str:
    """`0.964 (0.940 to 0.979)`."""
    return f"{value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
