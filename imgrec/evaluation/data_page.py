"""What was found out about a data set, as one page that needs nothing beside it."""

from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from imgrec.data.findings import Duplicates, Findings
from imgrec.evaluation.data_pictures import (
    as_data_url,
    class_counts_picture,
    rows_of_each_class,
    sizes_picture,
    strip,
)

MOST_CLASSES = 40
MOST_SHOWN = 60
SAMPLES = 10


def data_page(findings: Findings, source: str) -> str:
    """The page, as HTML.

    Args:
        findings: What to show.
        source: What the settings call the data.
    """
    store = findings.store
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of files come from outside
    )
    template = environment.get_template("data_page.html.jinja")
    return template.render(
        source=source,
        findings=findings,
        facts=_facts(findings),
        counts=as_data_url(class_counts_picture(findings)),
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
