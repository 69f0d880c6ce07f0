"""The report: complete without a network, in two languages, with names as they are."""

import ast
import json
import re
import string
from pathlib import Path

import numpy as np
import pytest
from jinja2 import Environment, nodes

import imgrec.evaluation
from imgrec.evaluation.contest import compare
from imgrec.evaluation.corruptions import CORRUPTIONS, Robustness
from imgrec.evaluation.costs import Costs
from imgrec.evaluation.label_errors import Suspect
from imgrec.evaluation.mistakes import Mistake, most_confused
from imgrec.evaluation.report import (
    ModelReport,
    Report,
    SearchReport,
    report_figures,
    report_page,
)
from imgrec.evaluation.trust import judge_trust
from imgrec.evaluation.words_zh import CHINESE
from imgrec.promises import Abstention, PredictionSets
from tests.unit.evaluation.made import contender, drawn
from tests.unit.evaluation.test_trust import classifier, made

ROOM = Path(imgrec.evaluation.__file__).parent
NAMED = {"ann", "cnn"}


def report() -> Report:
    """Two models of three classes, with everything that a page can hold."""
    rng = np.random.default_rng(0)
    cnn, ann = drawn(rng, 300, 3, [0.95, 0.8])
    sets = PredictionSets(coverage=0.9, thresholds=(0.2,) * 3, by_class=False, pictures=100)
    sure = Abstention(below=0.7, precision=0.95, pictures=100)
    trust = judge_trust(classifier(sets=sets, abstention=sure), *made())
    robustness = Robustness(100, 0.95, dict.fromkeys(CORRUPTIONS, (0.9, 0.8, 0.7, 0.6, 0.5)))
    comparison = compare([contender("cnn", cnn), contender("ann", ann, begins_with="lite0")])
    dot = "data:image/png;base64,"
    models = tuple(
        ModelReport(
            arch=name,
            registered_model=f"pets-{name}",
            version=1,
            champion=name == "cnn",
            why_not="" if name == "cnn" else "version 3 stays champion",
            validation=0.9,
            costs=Costs(1000, 5000, 4000, "CPU, 2 threads", cost, 100.0, 10.0, 20.0),
            trust=trust,
            robustness=robustness,
            per_class=tuple((f"<script>{k}", 10, 10, 0.9, 0.8, 0.85) for k in range(3)),
            confusion=((8, 1, 1), (0, 10, 0), (0, 0, 10)),
            confused=tuple(most_confused(answers)),
            mistakes=(Mistake("a<b>.png", "cat", "dog", 0.9, dot, dot),),
        )
        for name, answers, cost in (("cnn", cnn, 2.0), ("ann", ann, 0.5))
    )
    return Report(
        name="pets",
        run_id="abc",
        when="2026-11-26 20:00",
        command="imgrec run --data pets",
        code="0.1.0",
        data={
            "source": "pets",
            "fingerprint": "f00",
            "class_names": ["cat", "dog", "cow"],
            "train": 1000,
            "choosing": 50,
            "calibrating": 50,
            "test": 300,
            "quarantined": 2,
        },
        comparison=comparison,
        models=models,
        searches=(SearchReport("cnn", 20, 50, 0.9, 0.93, 0.915, 0.02),),
        suspects=(Suspect("x.png", "train", "cat", "dog", 0.1, 0.9),),
        suspected=70,
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_page_needs_nothing_beside_it(language: str) -> None:
    """No network, no server, no script; and names from outside stay text."""
    page = report_page(report(), language)  # type: ignore[arg-type]

    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]+", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page
    assert "&lt;script&gt;0" in page
    assert page.count("<svg") == 5
    # Text stays text in figures, so a reader can search and a screen reader read.
    assert len(re.findall(r"<text ", page)) > 50


def sentences() -> set[str]:
    """All that the template and the modules say."""
    tree = Environment(autoescape=True).parse((ROOM / "report.html.jinja").read_text("utf-8"))
    calls = [call for call in tree.find_all(nodes.Call) if getattr(call.node, "name", "") == "say"]
    said = {call.args[0].value for call in calls if isinstance(call.args[0], nodes.Const)}
    for file in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say":
                said |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    return said


def test_every_sentence_has_its_chinese_with_the_same_places() -> None:
    """A sentence that is forgotten would stand in English between the others."""

    def places(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    said = sentences()
    figures = {
        text.get_text()
        for figure in report_figures(report()).values()
        for text in figure.findobj(match=lambda one: hasattr(one, "get_text"))
    }
    words = {text for text in figures if re.search("[a-z]", text)} - NAMED

    assert said | words <= set(CHINESE)
    assert all(places(text) == places(other) for text, other in CHINESE.items())
    assert all(
        re.search("[\u4e00-\u9fff]", other) for other in CHINESE.values() if "JPEG" not in other
    )


def test_a_chinese_page_has_no_english_sentence() -> None:
    """Figures included."""
    page = report_page(report(), "zh")

    for text in (one for one in CHINESE if len(one) > 25 and "{" not in one):
        assert text not in page, text
    assert 'lang="zh"' in page
    assert "准确率" in page


def test_a_report_is_read_from_json_as_it_was_written() -> None:
    """So it can be written in another language, where its pictures are not at hand."""
    first = report()
    again = Report.of(json.loads(json.dumps(first.as_json())))

    assert report_page(again) == report_page(first)


def test_what_nothing_is_known_of_is_left_out() -> None:
    """Models of an earlier imgrec have no trust on record, and robustness may be switched off."""
    first = report()
    told = first.as_json()
    for model in told["models"]:
        model |= {
            "trust": None,
            "robustness": None,
            "confusion": [],
            "mistakes": [],
            "confused": [],
        }
    bare = Report.of(told | {"searches": [], "suspects": [], "suspected": 0})
    page = report_page(bare)

    assert page.count("<svg") == 2
    assert 'id="trust"' not in page
    assert "None: no picture counts" in page
