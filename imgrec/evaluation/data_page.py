"""What was found out about a data set, as one page that needs nothing beside it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader

from imgrec.data.findings import Duplicates, Findings
from imgrec.data.splits import Splits
from imgrec.data.store import Store
from imgrec.evaluation.data_pictures import (
    as_data_url,
    rows_of_each_class,
    sizes_picture,
    strip,
)
from imgrec.evaluation.pictures import ACCENT, MUTED

MOST_CLASSES = 40
MOST_SHOWN = 60
SAMPLES = 10
MOST_BARS = 30
SHADES = {"train": ACCENT, "val": "#6fb1c9", "test": MUTED, "not split yet": ACCENT}
"""Of the splits, in the order of `Findings.counts`."""


def data_page(findings: Findings, source: str, splits: Splits | None = None) -> str:
    """The page, as HTML.

    Args:
        findings: What to show.
        source: What the settings call the data.
        splits: As they were made; without, as far as the source gives them.
    """
    store = findings.store
    bars = _bars(store.class_names, findings.counts if splits is None else _counts(store, splits))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of files come from outside
    )
    template = environment.get_template("data_page.html.jinja")
    return template.render(
        source=source,
        findings=findings,
        facts=_facts(findings),
        bars=bars,
        shades=SHADES,
        splits={split for bar in bars for split, _, _ in bar.parts},
        sizes=as_data_url(sizes_picture(findings)),
        samples=[
            (name, as_data_url(strip(store.images[rows])))
            for name, rows in rows_of_each_class(findings, SAMPLES)[:MOST_CLASSES]
        ],
        duplicates=[_shown(findings, one) for one in findings.duplicates[:MOST_SHOWN]],
        odd=[
            (as_data_url(strip(store.images[[row]])), findings.ids[row], reason)
            for row, reason in findings.odd[:MOST_SHOWN]
        ],
        rejected=findings.rejected[:MOST_SHOWN],
        most_shown=MOST_SHOWN,
        most_classes=MOST_CLASSES,
    )


def _facts(findings: Findings) -> list[tuple[str, str]]:
    store, looks = findings.store, findings.looks
    height, width, channels = store.image_shape
    modes = Counter(looks["mode"].tolist())
    color = "RGB" if channels == 3 else "grey"
    return [
        ("pictures", f"{len(store.labels):,}"),
        ("classes", f"{len(store.class_names):,}"),
        ("largest to smallest class", f"{findings.imbalance:.3g} : 1"),
        ("left out", f"{len(findings.rejected):,}"),
        ("duplicates", f"{len(findings.duplicates):,}"),
        ("stored as", f"{height} x {width} {color}"),
        ("brightness", f"{looks['mean'].mean():.0f} ± {looks['mean'].std():.0f}"),
        ("modes", ", ".join(f"{mode} {n:,}" for mode, n in modes.most_common(3))),
    ]


@dataclass(frozen=True, slots=True)
class Bar:
    """The pictures of a class.

    Attributes:
        name: Of the class; empty where classes between the largest and the smallest are left out.
        parts: For each split its pictures, and their share of those of the largest class in percent.
        total: Pictures; of what was left out, classes.
    """

    name: str
    parts: tuple[tuple[str, int, float], ...]
    total: int


def _counts(store: Store, splits: Splits) -> npt.NDArray[np.int64]:
    """Pictures by class and split, as `Findings.counts` has them."""
    classes = len(store.class_names)
    rows = (splits.train, splits.val, splits.test, np.empty(0, dtype=np.int64))
    return np.stack([np.bincount(store.labels[some], minlength=classes) for some in rows], axis=1)


def _bars(names: Sequence[str], counts: npt.NDArray[np.int64]) -> list[Bar]:
    """A bar for each class, largest first; of many classes both ends. Text is text, in any writing.

    Args:
        names: Of the classes, K.
        counts: (K, 4), as `Findings.counts` has them.
    """
    order = np.argsort(-counts.sum(axis=1), kind="stable").tolist()
    most = max(1, int(counts.sum(axis=1).max()))
    bars = [
        Bar(
            names[k],
            tuple(
                (split, n, 100 * n / most)
                for split, n in zip(SHADES, counts[k].tolist(), strict=True)
                if n
            ),
            int(counts[k].sum()),
        )
        for k in order
    ]
    if (left_out := len(bars) - MOST_BARS) > 0:
        bars[MOST_BARS // 2 : -MOST_BARS // 2] = [Bar("", (), left_out)]
    return bars


def _shown(findings: Findings, one: Duplicates) -> dict[str, object]:
    store = findings.store
    rows = one.rows[:4]
    return {
        "what": f"{'the same' if one.exact else 'alike'}: {one.kind}",
        "picture": as_data_url(strip(store.images[list(rows)])),
        "names": [(findings.ids[row], store.class_names[store.labels[row]]) for row in rows],
        "more": len(one.rows) - len(rows),
        "bad": one.kind != "same class",
    }
