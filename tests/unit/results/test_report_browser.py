"""The page of HTML in a headless Chromium: no error, no request, sorted by clicks, readable at two widths."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from llmbole.report import write_report

RESULTS = Path(__file__).resolve().parents[3] / "leaderboard" / "results"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox",  # which needs rights that containers lack
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)"
)
# Each text of a chart: what it says, its size in pixels of the screen, and where it is.
TEXTS = """
() => Array.from(document.querySelectorAll("svg")).map((svg) => {
  const outer = svg.getBoundingClientRect();
  const scale = outer.width / svg.viewBox.baseVal.width;
  return {box: [outer.left, outer.top, outer.right, outer.bottom],
    texts: Array.from(svg.querySelectorAll("text")).map((text) => {
      const box = text.getBoundingClientRect();
      return {says: text.textContent, size: parseFloat(getComputedStyle(text).fontSize) * scale,
        box: [box.left, box.top, box.right, box.bottom]};
    })};
})
"""
VALUES = """
(column) => Array.from(document.querySelector("table.sortable").tBodies[0].rows).map(
  (row) => row.cells[column].dataset.value)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The page of the committed records."""
    return write_report(RESULTS, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(params=[400, 1400])
def page(request, browser, report) -> Iterator[Page]:
    """The page, open at a width of so many pixels; errors, and requests for anything else, fail the test."""
    opened, problems = browser.new_page(viewport={"width": request.param, "height": 900}), []
    opened.on("pageerror", lambda error: problems.append(f"error: {error}"))
    opened.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    opened.on("request", lambda asked: problems.append(asked.url) if asked.url != report.as_uri() else None)
    opened.goto(report.as_uri())
    yield opened
    opened.close()
    assert problems == []


def test_the_page_is_no_wider_than_the_screen(page):
    wide = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
    assert max(wide) <= page.viewport_size["width"]


def test_words_are_large_enough(page):
    sizes = page.evaluate(
        """() => Object.fromEntries(["body", "td", "th button", "figcaption"].map(
            (name) => [name, parseFloat(getComputedStyle(document.querySelector(name)).fontSize)]))"""
    )
    assert sizes["body"] >= 16 and min(sizes.values()) >= 13, sizes


def test_charts_are_read_without_texts_cut_or_over_each_other(page):
    charts = page.evaluate(TEXTS)
    assert len(charts) >= 4 and all(chart["texts"] for chart in charts)
    for chart in charts:
        left, top, right, bottom = chart["box"]
        for number, text in enumerate(chart["texts"]):
            one = text["box"]
            assert text["size"] >= 12, text
            assert left - 1 <= one[0] and one[2] <= right + 1, text
            assert top - 1 <= one[1] and one[3] <= bottom + 1, text
            for other in chart["texts"][:number]:
                across = min(one[2], other["box"][2]) - max(one[0], other["box"][0])
                down = min(one[3], other["box"][3]) - max(one[1], other["box"][1])
                assert min(across, down) < 5, (text, other)  # boxes hold the lines' leading, which may touch


def test_a_click_sorts_and_another_turns_the_order(page):
    titles = page.locator("table.sortable").first.locator("th button")
    names = titles.all_text_contents()
    column = names.index("seconds")
    before = page.evaluate(VALUES, column)
    ordered = sorted(before, key=float)
    assert len(set(before)) > 2 and ordered != before
    titles.nth(column).click()
    assert page.evaluate(VALUES, column) == ordered
    titles.nth(column).click()
    assert page.evaluate(VALUES, column) == ordered[::-1]
    assert page.locator("th[aria-sort=descending]").first.text_content() == "seconds"
    titles.nth(names.index("row")).click()
    assert page.evaluate(VALUES, column) == before


def test_the_methods_stay_in_sight_when_a_table_is_moved(page):
    box = page.locator(".scroll").first
    method = box.locator("tbody tr").first.locator("td").nth(1)
    box.evaluate("(element) => { element.scrollLeft = 10000; }")
    place, around = method.bounding_box(), box.bounding_box()
    assert place["x"] >= around["x"] - 1
    assert place["x"] + place["width"] <= around["x"] + around["width"]


def test_links_lead_to_their_sections(page):
    links = page.locator("nav a")
    for number in range(links.count()):
        links.nth(number).click()
        target = links.nth(number).get_attribute("href")
        section = page.locator(f'[id="{target.removeprefix("#")}"]')
        assert section.count() == 1 and section.evaluate("(one) => one.getBoundingClientRect().top") < 900
