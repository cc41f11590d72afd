"""The page in a real browser (Debian's package chromium)."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from serving_client import Client
from tests.serving_client.gateway.conftest import pictures

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = Path(__file__).parents[3] / "build" / "page"
DROP = """([files]) => {
    const data = new DataTransfer();
    for (const { name, content } of files) {
        const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
        data.items.add(new File([bytes], name, { type: "image/jpeg" }));
    }
    document.getElementById("drop").dispatchEvent(
        new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian's package chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(params=["wide", "phone"])
def page(browser: Browser, gateway: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The opened page; it must send requests to the gateway only."""
    requested: list[str] = []
    with browser.new_context(
        viewport={"width": 1100, "height": 800} if request.param == "wide" else {"width": 390, "height": 844},
        color_scheme="light" if request.param == "wide" else "dark",
    ) as context:
        page = context.new_page()
        page.on("request", lambda request: requested.append(request.url))
        page.goto(gateway)
        yield page
        page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png", full_page=True)
    assert all(url.startswith((gateway, "blob:", "data:")) for url in requested), requested


def drop(page: Page, paths: list[Path]) -> None:
    files = [{"name": path.name, "content": base64.b64encode(path.read_bytes()).decode()} for path in paths]
    page.evaluate(DROP, [files])


def test_dropped_pictures_get_their_labels(page: Page, client: Client, image_tree: Path) -> None:
    paths = pictures(image_tree)[:2]
    drop(page, paths)
    expect(page.locator(".result .scores li:first-child")).to_have_count(2)
    # The picture that was dropped last comes first.
    for row, prediction in enumerate(reversed(client.classify(paths, top_k=5))):
        result = page.locator(".result").nth(row)
        for place, score in enumerate(prediction.scores):
            line = result.locator(".scores li").nth(place)
            expect(line.locator(".label")).to_have_text(score.label)
            expect(line.locator(".percent")).to_have_text(f"{100 * score.probability:.1f}%")
            width = line.locator(".bar div").evaluate(
                "bar => bar.offsetWidth / bar.parentElement.offsetWidth"
            )
            assert width == pytest.approx(score.probability, abs=0.02)
    expect(page.get_by_role("status")).to_be_empty()


def test_shows_the_model_card(page: Page, client: Client) -> None:
    expect(page).to_have_title("tiny")
    card = page.locator("#card")
    expect(card).to_contain_text("32 × 32 px")
    expect(card).to_contain_text(", ".join(client.describe().labels))


def test_works_with_the_keyboard_alone(page: Page, image_tree: Path) -> None:
    # Chromium needs a moment before playwright can intercept its file dialog.
    page.on("filechooser", lambda chooser: None)
    page.wait_for_timeout(300)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")  # after the link to the API
    assert page.evaluate("document.activeElement.id") == "files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(pictures(image_tree)[:2])
    expect(page.locator(".result .scores li:first-child")).to_have_count(2)


def test_reports_an_invalid_picture_and_classifies_the_others(
    page: Page, image_tree: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "<b>notes.jpg"
    notes.write_text("not an image")
    page.set_input_files("#files", [*pictures(image_tree)[:2], notes])
    expect(page.locator(".error")).to_contain_text("12 bytes")
    expect(page.locator(".result h3").first).to_have_text("<b>notes.jpg")
    expect(page.locator(".result .scores li:first-child")).to_have_count(2)


def test_fits_the_width_of_the_window(page: Page, image_tree: Path) -> None:
    drop(page, pictures(image_tree)[:2])
    expect(page.locator(".result .scores li:first-child")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
