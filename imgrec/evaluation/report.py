"""A run as one page: which model is better, what it costs, how far to trust it, and what it gets wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from imgrec.evaluation.comparison import Comparison, Standing
from imgrec.evaluation.corruptions import Robustness
from imgrec.evaluation.costs import Costs
from imgrec.evaluation.label_errors import Suspect
from imgrec.evaluation.mistakes import Confused, Mistake
from imgrec.evaluation.report_pictures import (
    cost_picture,
    intervals_picture,
    precision_picture,
    reliability_picture,
    robustness_picture,
)
from imgrec.evaluation.svg import to_svg
from imgrec.evaluation.trust import Trust
from imgrec.evaluation.words import Language, speaker

MOST_SUSPECTS, MOST_CLASSES = 50, 30
PerClass = tuple[str, int, int, float, float, float]
"""Name, training and test pictures, precision, recall and F1 of a class."""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model.

    Attributes:
        arch: Its architecture, by which it is called.
        registered_model: Its name in the registry.
        champion: Whether it is champion.
        why_not: Why it is not; empty where it is.
        validation: Accuracy on the part of the validation split that chose it.
        costs: What it takes.
        trust: How far its probabilities hold; None where an earlier imgrec made it.
        robustness: None where that was not asked for.
        per_class: Of each class.
        confusion: Counts, true classes by predicted ones; empty where there are many classes.
        confused: The pairs of classes with the most mistakes.
        mistakes: The worst ones.
    """

    arch: str
    registered_model: str
    version: int
    champion: bool
    why_not: str
    validation: float
    costs: Costs
    trust: Trust | None
    robustness: Robustness | None
    per_class: tuple[PerClass, ...]
    confusion: tuple[tuple[int, ...], ...]
    confused: tuple[Confused, ...]
    mistakes: tuple[Mistake, ...]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "ModelReport":
        """From JSON."""
        return cls(
            **dict(told)
            | {
                "costs": Costs.of(told["costs"]),
                "trust": told["trust"] and Trust.of(told["trust"]),
                "robustness": told["robustness"] and Robustness.of(told["robustness"]),
                "per_class": tuple(tuple(row) for row in told["per_class"]),
                "confusion": tuple(tuple(row) for row in told["confusion"]),
                "confused": tuple(Confused(**one) for one in told["confused"]),
                "mistakes": tuple(Mistake.of(one) for one in told["mistakes"]),
            }
        )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        told = asdict(self)
        told["robustness"] = self.robustness and self.robustness.as_json()
        return told


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What a search promises.

    Attributes:
        arch: Of which architecture.
        trials: That count.
        pictures: That judged them.
        default: Macro-F1 of the defaults; None where they were not tried.
        best: Of the best trial.
        confirmed: Of the chosen trial with other seeds; None where that was not asked for.
        optimism: How much better the best one looks than it is, as is to be expected of choosing.
    """

    arch: str
    trials: int
    pictures: int
    default: float | None
    best: float
    confirmed: float | None
    optimism: float


@dataclass(frozen=True, slots=True)
class Report:
    """A run.

    Attributes:
        name: Of the run.
        run_id: In MLflow.
        when: Day and time of its end, for people.
        command: What made it.
        code: Version of the code.
        data: What it was trained on: source, fingerprint, class_names, and counts of pictures.
        comparison: Of the models.
        models: In the order of the comparison.
        searches: What was searched.
        suspects: Pictures whose label is probably wrong, by the first model.
        suspected: How many there are in all.
    """

    name: str
    run_id: str
    when: str
    command: str
    code: str
    data: Mapping[str, Any]
    comparison: Comparison
    models: tuple[ModelReport, ...]
    searches: tuple[SearchReport, ...]
    suspects: tuple[Suspect, ...]
    suspected: int

    def as_json(self) -> dict[str, Any]:
        """All numbers, for programs."""
        return {
            "name": self.name,
            "run_id": self.run_id,
            "when": self.when,
            "command": self.command,
            "code": self.code,
            "data": dict(self.data),
            "comparison": self.comparison.as_json(),
            "models": [one.as_json() for one in self.models],
            "searches": [asdict(one) for one in self.searches],
            "suspects": [asdict(one) for one in self.suspects],
            "suspected": self.suspected,
        }

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Report":
        """From what `as_json` gave, read from a file."""
        return cls(
            **dict(told)
            | {
                "comparison": Comparison.of(told["comparison"]),
                "models": tuple(ModelReport.of(one) for one in told["models"]),
                "searches": tuple(SearchReport(**one) for one in told["searches"]),
                "suspects": tuple(Suspect(**one) for one in told["suspects"]),
            }
        )

    def standing(self, model: ModelReport) -> Standing:
        """How a model stands among the others."""
        return next(one for one in self.comparison.standings if one.name == model.arch)


def report_page(report: Report, language: Language = "en") -> str:
    """The page, as HTML that needs nothing beside it.

    Args:
        report: What it tells.
        language: In which.
    """
    say = speaker(language)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of files and classes come from outside
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        report=report,
        best=report.models[0],
        language=language,
        say=say,
        verdicts=[report.comparison.sentence(line) for line in report.comparison.lines(say)],
        pictures={
            name: Markup(to_svg(figure, say))  # noqa: S704 - our own figures, their texts escaped
            for name, figure in report_figures(report).items()
        },
        trusted={one.arch: one.trust for one in report.models if one.trust},
        shaken={one.arch: one.robustness for one in report.models if one.robustness},
        most_suspects=MOST_SUSPECTS,
        most_classes=MOST_CLASSES,
        several_workers=any(
            one.costs.device_seconds > one.costs.fit_seconds for one in report.models
        ),
        weakest=_weakest(report.models[0].per_class),
    )


def report_figures(report: Report) -> dict[str, Figure]:
    """The figures of a report, by what the page calls them; without those that nothing is known for."""
    standings = [report.standing(one) for one in report.models]
    costs = [(one, model.costs) for one, model in zip(standings, report.models, strict=True)]
    figures = {"intervals": intervals_picture(standings), "costs": cost_picture(costs)}
    if trusted := [(one.arch, one.trust) for one in report.models if one.trust]:
        figures["reliability"] = reliability_picture(trusted)
        figures["precision"] = precision_picture(trusted)
    if shaken := [(one.arch, one.robustness) for one in report.models if one.robustness]:
        figures["robustness"] = robustness_picture(shaken)
    return figures


def _weakest(per_class: Sequence[PerClass]) -> list[PerClass]:
    """The classes of a model, the least recognized first."""
    return sorted(per_class, key=lambda row: (row[5], row[0]))
