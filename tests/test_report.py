"""The report page: complete in itself, nothing of a user's text gets to run, numbers read like numbers."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from moonrec.report import Report, format_value, line_figure

HOSTILE = "<script>alert('x')</script> & <img src=http://evil.example/x onerror=alert(1)> \"quoted\""


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def saved(report: Report, folder: Path) -> str:
    report.save(folder / "report.html")
    assert [entry.name for entry in folder.iterdir()] == ["report.html"]
    return (folder / "report.html").read_text(encoding="utf-8")


def full_report(text: str) -> Report:
    report = Report(text, text)
    report.heading(text)
    report.text(text)
    report.warning(text)
    report.table([{text: text, "auc": 0.5}, {text: None, "auc": 0.25}], text)
    report.figure(
        line_figure({"loss": ([1, 2], [0.5, 0.4]), "auc": ([1, 2], [0.5, 0.6])}, "epoch", "value"), text
    )
    return report


def test_the_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    page = saved(full_report("plain"), tmp_path)
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    assert "@import" not in page
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "embed"} & set(parsed.tags)
    sources = [value for name, value in parsed.attributes if name in ("src", "href", "srcset", "data")]
    assert len(sources) == 1
    assert str(sources[0]).startswith("data:image/png;base64,iVBOR")


def test_text_of_users_stays_text(tmp_path: Path) -> None:
    plain, hostile = Page(saved(full_report("plain"), tmp_path)), Page(saved(full_report(HOSTILE), tmp_path))
    assert hostile.tags == plain.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in plain.attributes]
    places = {
        "title",
        "subtitle",
        "heading",
        "text",
        "warning",
        "column",
        "cell",
        "caption",
        "figcaption",
        "h1",
    }
    assert sum(text == HOSTILE for text in hostile.texts) == len(places)


def test_parts_stand_in_the_order_in_which_they_were_added(tmp_path: Path) -> None:
    report = Report("title")
    report.warning("first")
    report.table([{"name": "second"}])
    report.text("third")
    page = saved(report, tmp_path)
    assert page.index("first") < page.index("second") < page.index("third")


def test_a_table_shows_the_columns_of_its_first_row(tmp_path: Path) -> None:
    report = Report("title")
    report.table([{"model": "ids", "auc": 0.123456}, {"auc": 12345.6}])
    page = saved(report, tmp_path)
    assert '<td>ids</td><td class="number">0.1235</td>' in page
    assert '<td>–</td><td class="number">12,346</td>' in page


def test_an_empty_table_does_not_break_the_page(tmp_path: Path) -> None:
    report = Report("title")
    report.table([], "nothing found")
    assert "nothing found" in saved(report, tmp_path)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.123456, "0.1235"),
        (-0.5, "-0.5000"),
        (99.99999, "100.0000"),
        (123456.7, "123,457"),
        (float("nan"), "nan"),
        (1234567, "1,234,567"),
        (True, "True"),
        ("007", "007"),
        (np.float32(0.1), "0.1000"),
        (np.float64(0.123456), "0.1235"),
        (np.int64(1234567), "1,234,567"),
    ],
)
def test_numbers_are_shown_alike_whatever_library_made_them(value: object, shown: str) -> None:
    assert format_value(value) == shown
