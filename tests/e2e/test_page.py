"""The page of `imgrec serve` in a real browser (Debian's chromium): pytest -m browser.

With IMGREC_SHOTS=FOLDER it leaves pictures of what it saw.
"""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgrec.serving.source import FolderSource
from tests.conftest import picture
from tests.integration.serving.made import make_classifier, save, served

playwright = pytest.importorskip("playwright.sync_api", reason="uv pip install playwright")
pytestmark = pytest.mark.browser
DESKTOP, PHONE = {"width": 1200, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    folders = {
        f"animals-{arch}": save(make_classifier(seed), folder / arch)
        for seed, arch in enumerate(("ann", "cnn", "rnn", "transformer"))
    }
    given = os.environ.get("IMGREC_MODELS", "")  # a folder of real ones, for pictures
    if given:
        folders = {path.name: path for path in sorted(Path(given).iterdir())}
    with served(FolderSource(folders)) as (address, _):
        yield address


def shot(page: "playwright.Page", name: str) -> None:
    if folder := os.environ.get("IMGREC_SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


def test_a_picture_is_answered_by_every_model(
    browser: "playwright.Browser", address: str, tmp_path: Path
) -> None:
    """Chosen from a disk, with what each looked at; no error in the console."""
    problems: list[str] = []
    page = browser.new_page(viewport=DESKTOP)
    page.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda one: problems.append(str(one)))
    page.goto(address)
    picture(1, 7, (64, 64)).save(tmp_path / "new.png")
    page.set_input_files("#file", tmp_path / "new.png")
    page.wait_for_selector("article >> nth=3")
    page.click("article >> nth=0 >> .explain")
    page.wait_for_selector("article >> nth=0 >> .looked img[src^='data:image/png']")
    shot(page, "page-desktop")

    assert page.locator("article").count() == 4
    assert page.locator("#state").inner_text() == "4 answers"
    assert problems == []


GIVEN = """([content, kind]) => {
    const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0));
    const given = new DataTransfer();
    given.items.add(new File([bytes], "new.png", {type: "image/png"}));
    const options = {bubbles: true, cancelable: true};
    if (kind === "paste") {
        document.dispatchEvent(new ClipboardEvent("paste", {...options, clipboardData: given}));
        return;
    }
    const place = document.getElementById("drop");
    for (const one of ["dragenter", "dragover", "drop"])
        place.dispatchEvent(new DragEvent(one, {...options, dataTransfer: given}));
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_that_is_dropped_or_pasted_is_answered(
    browser: "playwright.Browser", address: str, tmp_path: Path, kind: str
) -> None:
    """By every model."""
    page = browser.new_page(viewport=DESKTOP)
    page.goto(address)
    page.wait_for_selector("#ask:not([hidden])")
    picture(1, 7, (64, 64)).save(tmp_path / "new.png")
    page.evaluate(GIVEN, [base64.b64encode((tmp_path / "new.png").read_bytes()).decode(), kind])
    page.wait_for_selector("article >> nth=3")

    assert page.locator("#state").inner_text() == "4 answers"


def test_a_photo_of_the_camera_is_answered(
    browser: "playwright.Browser", address: str, tmp_path: Path
) -> None:
    """The phone's own camera is asked for, the one that looks away from whoever holds it."""
    page = browser.new_page(viewport=PHONE)
    page.goto(address)
    page.wait_for_selector("#ask:not([hidden])")
    picture(1, 7, (64, 64)).save(tmp_path / "photo.jpg")
    with page.expect_file_chooser() as asked:
        page.click("#photograph")
    asked.value.set_files(tmp_path / "photo.jpg")
    page.wait_for_selector("article >> nth=3")

    assert page.locator("#camera").get_attribute("capture") == "environment"


def test_a_broken_file_gets_a_kind_message(
    browser: "playwright.Browser", address: str, tmp_path: Path
) -> None:
    """And the page goes on."""
    page = browser.new_page(viewport=PHONE, color_scheme="dark")
    page.goto(address)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    page.set_input_files("#file", tmp_path / "broken.png")
    page.wait_for_selector("#problem:not([hidden])")
    message = page.locator("#problem").inner_text()
    shot(page, "page-phone-broken")
    picture(1, 7, (64, 64)).save(tmp_path / "new.png")
    page.set_input_files("#file", tmp_path / "new.png")
    page.wait_for_selector("article")

    assert message.startswith("This file cannot be read: not a picture")
    assert page.locator("#problem").is_hidden()


def test_the_page_is_chinese_for_who_reads_chinese(
    browser: "playwright.Browser", address: str
) -> None:
    """By the browser's language; a drawing is recognized too, and everything is in reach of the keyboard."""
    page = browser.new_context(locale="zh-CN", viewport=PHONE).new_page()
    page.goto(address)
    page.wait_for_selector("#drawing:not([hidden])")
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 90, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 60, steps=5)
    page.mouse.move(box["x"] + 120, box["y"] + 230, steps=5)
    page.mouse.up()
    page.click("#recognize")
    page.wait_for_selector("article")
    shot(page, "page-phone-chinese")

    assert page.locator("html").get_attribute("lang") == "zh"
    assert page.locator("#choose").inner_text() == "选择图片"
    assert page.locator("#state").inner_text().endswith("个答案")
    reached = set()
    page.focus("body")
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"choose", "photograph", "draw", "recognize", "clear"} <= reached


def test_with_a_token_the_page_asks_for_it(browser: "playwright.Browser", tmp_path: Path) -> None:
    """Once; it is kept for this tab alone."""
    folder = save(make_classifier(), tmp_path / "animals")
    with served(FolderSource({"animals": folder}), token="a secret") as (address, _):
        page = browser.new_page(viewport=DESKTOP)
        page.goto(address)
        page.fill("#token", "a secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#ask:not([hidden])")

        assert page.locator("#sign-in").is_hidden()
        assert "animals" in page.locator("#about").inner_text()
