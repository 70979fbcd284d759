"""What counts as a thing that a text names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from encoder_helpers import write_table

from encoders.entities import Entities, words
from moonrec.tables import ITEMS, SEARCHES, open_table


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("", 0),
        ("the best of it, and new!", 0),
        ("Red sock", 2),
        ("red RED Red", 1),
        ("a red sock for the winter", 3),
        ("size M", 1),
        ("Jumanji (1995)", 2),
        ("x y z", 0),
        ("iPhone 15", 2),
        ("Café—Crème", 2),
        ("ＲＥＤ　ｓｏｃｋ", 2),  # full-width letters are the same letters
        ("鞋", 1),
        ("连衣裙", 1),
        ("红色连衣裙", 2),
        ("iPhone手机壳", 2),
        ("赤いワンピース", 2),
        ("원피스 여성", 2),
        ("हिन्दी किताब", 2),  # vowel signs do not cut a word
        ("เสื้อยืดผู้ชาย", 3),
        ("Красное платье", 2),
    ],
)
def test_distinct_content_words_are_counted_in_any_script(text: str, entities: int) -> None:
    assert Entities().count(text) == entities


def test_ascii_and_other_text_are_cut_alike() -> None:
    for text in ("Women's T-Shirt, size_42 (new)", "a.b/c 3x5"):
        assert list(words(text)) == list(words(text + " é"))[:-1]


def test_short_words_of_categories_and_attribute_values_count(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"item_id": "0", "title": "x", "category": "Shoes > D", "attributes": {"size": "M", "in": "of"}},
        {"item_id": "1", "title": "y", "category": None, "attributes": None},
    ]
    known = Entities.of_catalogue(open_table(write_table(tmp_path / "items.parquet", rows), ITEMS))
    assert known.count("M") == 1
    assert known.count("d shoe") == 2
    assert known.count("L of a") == 0
    plain = [{"item_id": "0", "title": "x"}]
    without = Entities.of_catalogue(open_table(write_table(tmp_path / "plain.parquet", plain), ITEMS))
    assert without.count("M") == 0


def test_items_pass_by_their_title_and_queries_by_their_words_if_they_have_any(tmp_path: Path) -> None:
    titles = ["red sock", "sock", None, "red sock"]
    items = open_table(
        write_table(
            tmp_path / "items.parquet", [{"item_id": str(k), "title": t} for k, t in enumerate(titles)]
        ),
        ITEMS,
    )
    queries = [{"item_id": "0", "query_text": t} for t in ("red sock", "sock", None, " ")]
    searches = open_table(write_table(tmp_path / "searches.parquet", queries), SEARCHES)
    photos = [{"item_id": "0", "query_image": b"photo"}] * 2
    wordless = open_table(write_table(tmp_path / "photos.parquet", photos), SEARCHES)
    of_items = [True, False, False, True]
    assert Entities().enough(items).tolist() == of_items
    assert Entities().enough(items, searches).tolist() == [*of_items, True, False, True, True]
    assert Entities().enough(items, wordless).tolist() == [*of_items, True, True]


def test_texts_are_counted_row_by_row() -> None:
    texts = pa.chunked_array([["red sock", None, "sock"], ["red sock", ""]])
    assert np.array_equal(Entities().counts(texts), [2, 0, 1, 2, 0])
