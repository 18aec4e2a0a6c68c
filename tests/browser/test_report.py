"""The report in a real browser: on a phone, on a desk, in the dark and on paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from kiln.report.beside import Beside, Way
from kiln.report.render import ALONE, render
from tests.support import build_documents
from tests.support.build_documents import built

PHONE, LARGER_PHONE, DESK = (
    ViewportSize(width=width, height=height)
    for width, height in ((360, 740), (390, 844), (1280, 800))
)
BUILDS: dict[str, Callable[[], dict[str, Any]]] = {
    "pose": build_documents.pose,
    "detection": build_documents.detection,
    "classification": build_documents.classification,
    "finetuned": build_documents.finetuned,
    "forced": build_documents.forced,
    "without-npu": build_documents.without_npu,
}

#: Elements that reach beyond the window to the right, by tag and class.
OVERFLOWING = """() => [...document.querySelectorAll('body *')]
  .filter(each => each.getBoundingClientRect().right > window.innerWidth + 0.5)
  .map(each => `${each.tagName} ${each.getAttribute('class')}`)"""
#: Texts of charts that reach beyond their drawing.
CUT = """() => [...document.querySelectorAll('svg.chart')].flatMap(chart => {
  const frame = chart.getBoundingClientRect()
  return [...chart.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect()
    return box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1
  }).map(text => `${chart.getAttribute('aria-label')}: ${text.textContent}`)
})"""


#: Ends when the page has been drawn twice more.
DRAWN = """() => new Promise(done =>
  requestAnimationFrame(() => requestAnimationFrame(done)))"""
#: A page that a busy machine takes so long for is not the test's concern.
PATIENCE_MS = 300_000


class Opened:
    """A report in a window, and all that it asked for or complained of."""

    def __init__(self, browser: Browser, file: Path, window: ViewportSize, dark: bool) -> None:
        self.context = browser.new_context(
            viewport=window, color_scheme="dark" if dark else "light"
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.refused: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.refused.append(str(request.failure)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(file.as_uri())
        # The page has no scripts: what it asks for is asked for by the time that it is drawn.
        self.page.evaluate(DRAWN)

    def bottom(self, text: str) -> float:
        """Where the first element with this text ends, in pixels from the top of the window."""
        box = self.page.get_by_text(text).first.bounding_box()
        assert box is not None, f"{text} is not shown"
        return box["y"] + box["height"]

    def colour(self, selector: str, property: str) -> tuple[int, ...]:
        script = f"each => getComputedStyle(each).{property}"
        value: str = self.page.locator(selector).first.evaluate(script)
        return tuple(int(part) for part in value.removeprefix("rgb(").removesuffix(")").split(","))


Open = Callable[..., Opened]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    contexts = []

    def open_report(
        build: dict[str, Any],
        window: ViewportSize = DESK,
        *,
        dark: bool = False,
        beside: Beside = ALONE,
    ) -> Opened:
        file = tmp_path / "report.html"
        file.write_text(render(built(build), beside=beside), encoding="utf-8")
        report = Opened(browser, file, window, dark)
        contexts.append(report.context)
        return report

    yield open_report
    for context in contexts:
        context.close()


@pytest.mark.parametrize("window", [PHONE, LARGER_PHONE, DESK], ids=["360", "390", "desk"])
@pytest.mark.parametrize("name", BUILDS)
def test_it_fits_asks_for_nothing_and_complains_of_nothing(
    opened: Open, window: ViewportSize, name: str
) -> None:
    report = opened(BUILDS[name](), window)
    assert [url for url in report.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in report.requests if url.startswith("file:")]) == 1
    assert report.complaints == []
    assert report.page.evaluate("document.documentElement.scrollWidth") == window["width"]
    assert report.page.evaluate(OVERFLOWING) == []
    assert report.page.evaluate(CUT) == []


@pytest.mark.parametrize("window", [PHONE, DESK], ids=["360", "desk"])
def test_builds_beside_a_fine_tuned_one_fit_and_their_points_are_whole(
    opened: Open, window: ViewportSize
) -> None:
    """One is above every tick of the charts but their last, one at the same place as the build."""
    build = build_documents.finetuned()
    own = Way.of(built(build))
    best = {"pose/map50_95": 0.43, "box/map50_95": 0.536}
    ways = (own, dataclasses.replace(own, name="a" * 80, cycles=20_000_000, accuracy=best))
    report = opened(build, window, beside=Beside(state="5", ways=ways))
    assert report.page.locator("circle.mark").count() == 8
    assert report.page.evaluate("document.documentElement.scrollWidth") == window["width"]
    assert report.page.evaluate(OVERFLOWING) == []
    assert report.page.evaluate(CUT) == []


@pytest.mark.parametrize("window", [PHONE, DESK], ids=["360", "desk"])
def test_long_names_do_not_widen_the_page(opened: Open, window: ViewportSize) -> None:
    build, long = build_documents.detection(), "extraordinarily_long_" * 9
    build["name"] = long
    build["files"] = {f"{name}{long}": file for name, file in build["files"].items()}
    build["deployed"] += long
    build["verdict"]["checks"][0] |= {"title": long, "figure": long, "limit": long}
    build["warnings"][0]["message"] = build["request"]["data"] = build["board"]["title"] = long
    build["numbers"]["operators"]["cpu"][long] = 1
    build["evidence"]["names"][0] = build["evidence"]["classes"][0]["name"] = long
    build["evidence"]["outputs"][0]["name"] = long
    slowest = max(build["evidence"]["operators"], key=lambda each: int(each["cycles"]))
    most = max(build["evidence"]["operators"], key=lambda each: int(each["counted"]["flash_bytes"]))
    for operator in (slowest, most):
        operator |= {"name": long, "operator": long}
    build["evidence"]["images"][0]["file"] = long
    report = opened(build, window)
    assert report.page.evaluate("document.documentElement.scrollWidth") == window["width"]
    assert report.page.evaluate(CUT) == []


@pytest.mark.parametrize("window", [PHONE, LARGER_PHONE, DESK], ids=["360", "390", "desk"])
def test_the_first_screen_answers(opened: Open, window: ViewportSize) -> None:
    report = opened(build_documents.pose(), window)
    for text in (
        "yolov8n-pose-demo-192",
        "Grove Vision AI V2",
        "Accepted by this firmware",
        "95.1",
        "0.9 points",
        "of 1,110 KiB",
        "of 10,240 KiB",
        "12 frames a second",
        "By Vela 4.5.0, not measured",
    ):
        assert report.bottom(text) <= window["height"], f"{text} is below the first screen"


@pytest.mark.parametrize("window", [PHONE, DESK], ids=["360", "desk"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_forced_build_is_red_at_every_height(
    opened: Open, window: ViewportSize, dark: bool
) -> None:
    report = opened(build_documents.forced(), window, dark=dark)
    assert report.bottom("Tensor arena") <= window["height"]
    red, green, blue = report.colour("h1", "color")
    assert red > 1.5 * max(green, blue)
    for selector, property in (
        (".banner", "backgroundColor"),
        ("body", "borderLeftColor"),
        (".memory:not(.over) .filled", "backgroundColor"),
        (".chart .bar", "fill"),
        (".deployed .note", "color"),
    ):
        red, green, blue = report.colour(selector, property)
        assert red > 1.5 * max(green, blue), f"{selector} is not red"
    report.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert 0 < report.bottom("Built by force") < 100


def test_an_accepted_build_has_nothing_red(opened: Open) -> None:
    report = opened(build_documents.pose())
    assert report.page.locator(".banner").count() == 0
    red, green, _ = report.colour("h1", "color")
    assert green > red


def test_dark_and_paper_have_their_own_colours(opened: Open) -> None:
    report = opened(build_documents.pose(), dark=True)
    assert max(report.colour("body", "backgroundColor")) < 40
    assert min(report.colour("body", "color")) > 200
    report.page.emulate_media(media="print")
    assert max(report.colour("body", "color")) < 40
    assert report.page.locator("nav").is_hidden()
    assert report.colour(".filled", "backgroundColor") != (0, 0, 0)
    assert report.page.locator("#warnings").is_visible()


def test_nothing_is_cut_between_two_sheets_of_paper(opened: Open) -> None:
    report = opened(build_documents.pose())
    report.page.emulate_media(media="print")
    for selector in (".drawn", ".pair", ".fact", "tr", "li"):
        rule = report.page.locator(selector).first.evaluate("e => getComputedStyle(e).breakInside")
        assert rule == "avoid"
    assert report.page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def _screenshots(report: Opened, selector: str) -> list[bytes]:
    """Of every such element, once all of them are drawn in full.

    On a busy machine the parts of a page that has just been scrolled come one after the other.
    """
    before: list[bytes] = []
    while (shots := [each.screenshot() for each in report.page.locator(selector).all()]) != before:
        before = shots
    return shots


def test_both_models_findings_are_drawn_on_the_same_image(opened: Open) -> None:
    report = opened(build_documents.pose())
    shots = _screenshots(report, ".annotated")
    # Of the first image the int8 model misses one object; of the others the two models agree.
    assert shots[0] != shots[1]
    assert shots[2] == shots[3]
    assert shots[4] == shots[5]
    assert shots[2] != shots[4]
    first = report.page.locator(".annotated").first
    assert first.locator("rect:not(.truth)").count() == 2
    assert first.locator("rect.truth").count() == 1
    assert first.locator("line").count() == len(build_documents.SKELETON)
    assert first.locator("text").all_text_contents() == ["0.87", "0.31"]


def test_labels_stay_inside_their_image(opened: Open) -> None:
    report = opened(build_documents.detection())
    outside = """() => [...document.querySelectorAll('.annotated')].flatMap(image => {
      const frame = image.getBoundingClientRect()
      return [...image.querySelectorAll('text')].filter(text => {
        const box = text.getBoundingClientRect()
        return box.left < frame.left - 3 || box.right > frame.right + 3 || box.top < frame.top - 3
      }).map(text => text.textContent)
    })"""
    assert report.page.evaluate(outside) == []


def test_a_hostile_name_runs_nothing_and_loads_nothing(opened: Open) -> None:
    build = build_documents.pose()
    hostile = (
        "</script><img src='http://localhost:9/x' onerror='alert(1)'><script>alert(2)</script>"
    )
    build["name"] = build["board"]["title"] = hostile
    build["evidence"]["images"][0]["file"] = hostile
    build["evidence"]["operators"][0]["name"] = hostile
    build["warnings"][0]["message"] = hostile
    report = opened(build, PHONE)
    assert report.page.title().startswith(hostile)
    assert [url for url in report.requests if url.startswith("http")] == []
    assert report.complaints == []
    assert report.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_an_image_that_is_elsewhere_is_not_fetched(opened: Open) -> None:
    build = build_documents.pose()
    build["evidence"]["images"][1]["image"] = "http://localhost:9/image.jpg"
    report = opened(build)
    assert set(report.refused) == {"csp"}
    assert all("Content Security Policy" in complaint for complaint in report.complaints)
