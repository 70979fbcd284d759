"""The picture page of a search: complete, quiet, readable on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_helpers import DESKTOP, PHONE, started_browser, visited
from encoder_helpers import write_table
from playwright.sync_api import Browser
from search_case import SearchCase, make_case

from encoders.search.search import search
from moonrec.embedding_set import EmbeddingSet


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> SearchCase:
    return make_case(tmp_path_factory.mktemp("search"), regions=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(case: SearchCase) -> Path:
    """All items for a photo with words, in a catalogue with one endless title."""
    out = case.folder / "page.html"
    words = "hat " * 60
    search(case.config(image=case.photos[0], text=words, items=case.items, k=21, html=str(out)))
    return out


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_query_and_all_that_was_found_are_seen(width: int, page: Path, browser: Browser) -> None:
    with visited(browser, page, width) as visit:
        assert visit.complaints == []
        assert visit.page.locator(".query .tile img").count() == 1
        assert visit.page.locator(".tiles .tile").count() == 21
        assert visit.page.locator(".tiles .tile img").count() == 16  # every fifth item has no picture
        assert all(visit.image_widths())
        assert visit.overflow() <= 0
        for summary in visit.page.locator("summary").all():
            summary.click()
        assert visit.page.locator("details tbody tr").count() > 21
        assert visit.overflow() <= 0


def test_it_tells_what_made_it_and_is_written_alike_again(case: SearchCase, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    own = EmbeddingSet.open(case.embeddings)
    for fingerprint in ("encoder_fingerprint", "catalogue_fingerprint"):
        assert own.metadata[fingerprint] in text
    assert own.fingerprint in text
    assert "photo photo0.png with “hat hat" in text
    assert "the box is its core region" in text
    search(case.config(image=case.photos[0], text="hat " * 60, items=case.items, k=21, html=str(page)))
    assert page.read_text(encoding="utf-8") == text


def test_without_a_catalogue_ids_stand_for_pictures(case: SearchCase, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    found = search(case.config(text="<b>hat</b>", k=3, html=str(out)))
    text = out.read_text(encoding="utf-8")
    assert found["notes"] == ["items are shown by their ids; name the catalogue with --items"]
    assert all(note in text for note in found["notes"])
    assert all(f">{row['item_id']}<" in text for row in found["results"])
    assert "<b>hat" not in text
    assert "<img" not in text


def test_broken_pictures_and_endless_words_leave_the_page_in_shape(
    case: SearchCase, tmp_path: Path, browser: Browser
) -> None:
    rows = [{"item_id": f"{place:03}", "title": "w" * 3000, "image": b"nothing"} for place in range(21)]
    items = write_table(tmp_path / "items.parquet", rows)
    out = tmp_path / "page.html"
    search(case.config(text="q" * 300, items=str(items), html=str(out)))
    for width in (PHONE, DESKTOP):
        with visited(browser, out, width) as visit:
            assert visit.complaints == []
            assert visit.page.locator("img").count() == 0
            assert visit.overflow() <= 0
            visit.page.locator("summary").first.click()
            assert visit.overflow() <= 0
