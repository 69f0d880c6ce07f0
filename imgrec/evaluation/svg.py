"""Figures as SVG for a page: text stays text, and colours are those of the page's theme."""

import io
import re
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure

from imgrec.evaluation.words import Say

INK, LINE = "#22303c", "#e6e9ec"
SERIES = ("#0b6e99", "#c1652f", "#4f7f4f", "#8a5aa8")
"""One colour for each model, in their order; more models begin again."""
VARIABLES = {
    INK: "--ink",
    LINE: "--line",
    "#ffffff": "--page",
    "#000000": "--ink",
    **{color: f"--series-{number}" for number, color in enumerate(SERIES, start=1)},
}
"""What the page calls each colour."""
TEXT = re.compile(r"(<text [^>]*>)([^<]*)(</text>)")
FONT = re.compile(r"(font: [^;'\"]*?[\d.]+px )[^;\"]*")


def to_svg(figure: Figure, say: Say) -> str:
    """A figure as an `<svg>` of any width.

    Args:
        figure: Its texts are English.
        say: Says them in the language of the page.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "imgrec"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    svg = FONT.sub(r"\1system-ui, sans-serif", svg)

    def said(found: re.Match[str]) -> str:
        return found[1] + escape(say(_unescaped(found[2]))) + found[3]

    return TEXT.sub(said, svg)


def _unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
