"""The page about the data."""

import shutil
from html import escape

import numpy as np

from imgrec.config import DataConfig
from imgrec.data.splits import make_splits
from imgrec.evaluation.data_page import data_page
from tests.unit.data.made import MakePhotos, found_in


def test_names_with_dollars_are_drawn(make_photos: MakePhotos) -> None:
    """Matplotlib would take what is between two for a formula, and refuse it."""
    folder = make_photos(count=24)
    (folder / "cat").rename(folder / "$5_$10")

    assert "$5_$10" in data_page(found_in(folder), "photos")


def test_what_a_run_has_split_is_shown_so(make_photos: MakePhotos) -> None:
    """`check` knows of no split where the source gives none."""
    findings = found_in(make_photos(count=24))
    before = data_page(findings, "photos")
    splits = make_splits(findings.store, DataConfig())
    after = data_page(findings, "photos", splits)

    assert "not split yet" in before
    assert "not split yet" not in after
    counts = np.bincount(findings.store.labels[splits.test])
    assert all(f"test: {count}" in after for count in counts)


def test_json_and_page_hold_what_was_found(make_photos: MakePhotos) -> None:
    """For scripts and for people; names of files must not become tags of the page."""
    folder = make_photos(count=24)
    (folder / "cat" / "<script>.png").write_bytes(b"")
    shutil.copy(folder / "cat" / "03.png", folder / "woman" / "zz.png")
    findings = found_in(folder)
    content = findings.as_json()
    page = data_page(findings, str(folder))

    assert content["classes"]["woman"]["unsplit"] == 25
    assert content["quarantined"] == [
        {"id": "cat/<script>.png", "label": "cat", "reason": "empty file"}
    ]
    assert content["duplicates"][0]["kind"] == "other class"
    assert content["fingerprint"] == findings.store.fingerprint
    assert "&lt;script&gt;.png" in page
    assert "<script>" not in page
    assert "empty file" in page
    for line in findings.understood():  # what was taken for what
        assert escape(line) in page
    assert "in several classes" in page
    assert page.count("data:image/png;base64,") > 3
