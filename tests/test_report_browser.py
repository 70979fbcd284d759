"""Report pages in a real browser: complete, quiet, and readable on a phone, at night and on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is in requirements/dev.txt")

from browser_helpers import DESKTOP, PHONE, started_browser, visited
from compare_case import ctr_metrics, jpeg, page_of, write_run
from playwright.sync_api import Browser

from moonrec.report import Cell, Report, Tile, add_provenance, line_figure

HOSTILE = "<img src=http://127.0.0.1:9/x.png onerror=alert(1)><script>console.error('ran')</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as started:
        yield started


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of part, words without a space, a wide table, and a name that is markup."""
    report = Report("A report", HOSTILE)
    report.headline([("AUC", 0.6252, "± 0.0011"), ("GAUC", 0.6213, ""), (HOSTILE, 16998, "rows" * 30)])
    report.warning("x" * 300)
    report.heading("Numbers")
    report.table([{f"column {place}": place / 7 for place in range(30)}], "wide")
    report.table([{"run": "a", "auc": Cell(0.6, "+0.1", marked=True)}], "narrow")
    report.figure(line_figure({"a": ([1, 2, 3], [1.0, 0.5, 0.4]), "$b$": ([1, 3], [1, 2])}, "x", "y"), "one")
    report.figure(line_figure({"loss": ([1, 2], [0.5, 0.4])}, "epoch", "loss"), "two")
    report.heading("Pictures")
    tiles = [
        Tile(base64.b64decode(jpeg("teal")), f"product {place}", "0.91", place == 2) for place in range(5)
    ]
    report.strip(Tile(None, "long words " * 12), tiles, "a query")
    report.tiles(tiles * 3, "neighbours")
    add_provenance(report, {"items": "/a/very/long/path" * 9}, {"items": "ab" * 32})
    path = tmp_path_factory.mktemp("full") / "report.html"
    report.save(path)
    return path


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `moonrec report` makes of two runs with curves and pictures."""
    folder = tmp_path_factory.mktemp("comparison")
    history = "".join(f'{{"samples": {n * 100}, "loss": {1 / n}, "auc": 0.6}}\n' for n in range(1, 9))

    def examples(colour: str) -> dict[str, Any]:
        query = {"image": jpeg("red"), "label": "asked", "note": "", "hit": None}
        results = [
            {"image": jpeg(colour), "label": f"found {place}", "hit": place == 0} for place in range(5)
        ]
        entry = {"kind": "fixed", "rank": 1, "query": query, "results": results}
        return {"tasks": {"image_to_item": [entry]}, "neighbours": []}

    runs = [
        write_run(folder / f"run {name}", ctr_metrics(auc, 0.5), history=history, examples=examples(name))
        for name, auc in (("blue", 0.61), ("green", 0.62))
    ]
    page_of(folder, *runs)
    return folder / "page.html"


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("made", "plots", "tiles"), [("full_page", 2, 20), ("comparison", 3, 24)])
def test_a_page_is_complete_and_quiet_and_fits_its_window(
    made: str,
    plots: int,
    tiles: int,
    scheme: str,
    width: int,
    browser: Browser,
    request: pytest.FixtureRequest,
) -> None:
    with visited(browser, request.getfixturevalue(made), width, scheme) as visit:
        assert visit.complaints == []
        assert all(visit.image_widths())
        assert visit.page.locator(".plot img").count() == plots
        assert visit.page.locator(".tile img").count() == tiles
        assert visit.overflow() <= 0
        for summary in visit.page.locator("main > section > .parts > details > summary").all():
            summary.click()
        assert visit.overflow() <= 0
        assert visit.complaints == []


def test_dark_and_light_are_two_looks_of_one_page(browser: Browser, full_page: Path) -> None:
    shots = {}
    for scheme in ("light", "dark"):
        with visited(browser, full_page, DESKTOP, scheme) as visit:
            shots[scheme] = visit.screenshot()
    assert all(shot[::2, ::2].std(axis=(0, 1)).min() > 10 for shot in shots.values())
    corner = {scheme: shot[:40, :40].mean() for scheme, shot in shots.items()}
    assert corner["light"] > 240
    assert corner["dark"] < 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme: str, browser: Browser, full_page: Path) -> None:
    """At least 4.5 to 1, as WCAG 2 asks of text (https://www.w3.org/TR/WCAG22/#contrast-minimum)."""
    pairs = [(css, "body") for css in ("body", ".caption", "th", "td strong", "summary", ".tile .note")]
    pairs += [(".warning", ".warning"), (".blank", ".frame"), (".tick", ".tick")]
    script = (
        "([css, name]) => getComputedStyle(document.querySelector(css))[name].match(/[0-9]+/g).map(Number)"
    )
    with visited(browser, full_page, DESKTOP, scheme) as visit:
        for text, behind in pairs:
            ink = visit.page.evaluate(script, [text, "color"])
            paper = visit.page.evaluate(script, [behind, "backgroundColor"])
            low, high = sorted((luminance(ink), luminance(paper)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, text


def luminance(rgb: list[int]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in rgb[:3])]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_plots_stand_beside_each_other_on_a_desk_and_below_on_a_phone(
    browser: Browser, comparison: Path
) -> None:
    tops = {}
    for width in (PHONE, DESKTOP):
        with visited(browser, comparison, width) as visit:
            boxes = [plot.bounding_box() for plot in visit.page.locator(".plot").all()[1:]]
            tops[width] = [round(box["y"]) for box in boxes if box]
    assert tops[DESKTOP][0] == tops[DESKTOP][1]
    assert tops[PHONE][0] < tops[PHONE][1]


def test_paper_is_white_and_holds_what_is_folded(browser: Browser, full_page: Path) -> None:
    with visited(browser, full_page, DESKTOP, "dark") as visit:
        pdf = visit.page.pdf(format="A4")
        assert pdf.startswith(b"%PDF")
        assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type /Page/") >= 1
        visit.page.emulate_media(media="print")
        assert np.median(visit.screenshot()) > 240
        assert visit.page.get_by_text("ab" * 32).is_visible()


def test_the_browser_check_itself_notices_a_bad_page(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    wrong = "<img src='data:image/png;base64,AAAA'><script>console.error('x')</script>"
    path.write_text(f"<!doctype html>{wrong}<p style='width:900px'>wide</p>")
    with visited(browser, path, PHONE) as visit:
        assert visit.complaints
        assert visit.image_widths() == [0]
        assert visit.overflow() > 0
