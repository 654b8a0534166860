"""Reports in a browser: where links land, what the console says, what is cut off, what axe-core finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

PAGES = ("report/index.html", "both/index.html", "clips.html")
WIDTHS = (1400, 420)  # px
# Smooth scrolling has ended, and no picture that loaded on the way has moved anything.
AT_REST = """() => {
  const same = window.lastScroll === scrollY ? (window.sameScroll ?? 0) + 1 : 0;
  window.lastScroll = scrollY;
  window.sameScroll = same;
  return same >= 3;
}"""
BELOW_NAVIGATION = 160  # px from the window's top within which a heading has to end up


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_links_land_on_their_headings(site: Path, visit: Any, name: str, width: int) -> None:
    """Also after everything is loaded, and from anywhere on the page."""
    page = visit((site / name).as_uri(), width).page
    targets = page.eval_on_selector_all("nav a", "links => links.map(link => link.hash)")
    assert len(targets) >= 3
    for target in targets:
        page.evaluate("hash => document.querySelector(`nav a[href='${hash}']`).click()", target)
        page.evaluate("window.lastScroll = window.sameScroll = undefined")
        page.wait_for_function(AT_REST, polling=200, timeout=15_000)
        top, left_over = page.evaluate(
            """hash => [document.querySelector(hash).getBoundingClientRect().top,
            document.documentElement.scrollHeight - innerHeight - scrollY]""",
            target,
        )
        assert 0 <= top < BELOW_NAVIGATION or left_over < 2, (target, top)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_and_the_console_is_silent(site: Path, visit: Any, name: str, width: int) -> None:
    opened = visit((site / name).as_uri(), width)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1400:  # on a phone tables and strips scroll by themselves
        inside = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.className)"
        assert page.eval_on_selector_all(".wide, .strip, .side-by-side > *", inside) == []
    unsized = "all => all.filter(e => !e.getAttribute('width') || !e.getAttribute('height')).length"
    assert page.eval_on_selector_all("video, img", unsized) == 0
    assert page.eval_on_selector_all("video", "all => all.filter(e => !e.poster).length") == 0
    assert opened.console == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(site: Path, visit: Any, axe: str, name: str, width: int, scheme: str) -> None:
    assert visit((site / name).as_uri(), width, scheme).violations(axe) == "none"


PLAYING = "all => all.filter(video => !video.autoplay && !video.paused).length"


@pytest.mark.parametrize("name", ["report/index.html", "both/index.html"])
def test_a_video_plays_when_it_is_pressed_and_shows_its_poster_before(
    site: Path, visit: Any, name: str
) -> None:
    page = visit((site / name).as_uri(), 1400).page
    with_controls = "all => all.filter(video => video.controls).length"
    page.hover(".clip video >> nth=0")
    assert page.eval_on_selector_all("video", with_controls) == 0
    page.click(".clip video >> nth=0")
    assert page.eval_on_selector_all("video", PLAYING) == 1
    assert page.eval_on_selector_all("video", with_controls) == 1
    page.hover("h1")
    page.evaluate("document.activeElement.blur()")
    assert page.eval_on_selector_all("video", with_controls) == 0
    page.focus(".clip video >> nth=1")
    page.keyboard.press("Enter")
    assert page.eval_on_selector_all("video", PLAYING) == 2


def test_a_phone_plays_what_is_tapped_and_has_no_hints_for_a_mouse(site: Path, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 420, "height": 900}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto((site / "report/index.html").as_uri())
    page.tap(".clip video >> nth=0")
    assert page.eval_on_selector_all("video", PLAYING) == 1
    assert not page.is_visible("text=Point at a clip")
    context.close()


def test_the_opening_video_plays(site: Path, visit: Any) -> None:
    page = visit((site / "report/index.html").as_uri(), 1400).page
    page.wait_for_function("document.querySelector('.opening video').currentTime > 0", timeout=10_000)


def test_tables_sort_and_filter_by_full_ids(site: Path, visit: Any) -> None:
    page = visit((site / "report/index.html").as_uri(), 1400).page
    rows = "rows => rows.filter(row => !row.hidden).length"
    before = page.eval_on_selector_all("#clip-table tbody tr", rows)
    page.fill("input[data-filter]", "ann#v#")
    assert 0 < page.eval_on_selector_all("#clip-table tbody tr", rows) < before
    assert not page.is_visible("text=No clip of that name")
    page.fill("input[data-filter]", "4.8")  # a score is no name
    assert page.eval_on_selector_all("#clips tbody tr", rows) == 0
    assert page.is_visible("text=No clip of that name")
    page.fill("input[data-filter]", "ann#v#")
    page.click("#clip-table th >> nth=3")
    assert page.get_attribute("#clip-table th >> nth=3", "aria-sort") == "ascending"
