"""Labelled pairs: which items may be negatives of a query, of which kind, and how categories are numbered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.relevance.asked import Asked, positive_pairs
from encoders.relevance.item_vectors import ItemVectors, ShownVectors, category_numbers
from encoders.relevance.labelled_pairs import ANY, SAME_CATEGORY, SHOWN, TAKEN, label_pairs


def catalogue(categories: Sequence[str | None], products: list[int], texts: list[int]) -> ItemVectors:
    column = pa.chunked_array([pa.array(categories, pa.string())])
    levels, level_NL = category_numbers(column, None)
    nothing = ShownVectors(np.zeros((len(products), 2), np.float16), np.ones(len(products), bool))
    ids = pa.array([f"i{number}" for number in range(len(products))])
    return ItemVectors(
        ids, nothing, nothing, nothing, np.array(products), np.array(texts), column, levels, level_NL
    )


def searches(rows: list[tuple[int, int, int]], own: list[int] | None = None) -> Asked:
    """Rows of (query, taken, shown)."""
    query_n, taken_n, shown_n = (np.array(column) for column in zip(*rows, strict=True))
    own_Q = np.full(query_n.max() + 1, -1) if own is None else np.array(own)
    return Asked(query_n, taken_n, shown_n, own_Q)


@st.composite
def shops(draw: st.DrawFn) -> tuple[ItemVectors, Asked]:
    count = draw(st.integers(2, 12))
    categories = draw(
        st.lists(st.sampled_from([None, "A", "A > B", "A > C", "D"]), min_size=count, max_size=count)
    )
    products = draw(st.lists(st.integers(0, count - 1), min_size=count, max_size=count))
    texts = draw(st.lists(st.integers(-1, count - 1), min_size=count, max_size=count))
    item = st.integers(-1, count - 1)
    rows = draw(st.lists(st.tuples(st.integers(0, 3), item, item), min_size=1, max_size=8))
    queries = max(row[0] for row in rows) + 1
    own = draw(st.lists(item, min_size=queries, max_size=queries))
    return catalogue(categories, products, texts), searches(rows, own)


@settings(max_examples=100, deadline=None)
@given(shops(), st.integers(0, 6), st.integers(0, 3))
def test_no_negative_is_what_its_query_took_shows_or_is_called_like_it(
    shop: tuple[ItemVectors, Asked], negatives: int, seed: int
) -> None:
    items, asked = shop
    pairs = label_pairs(asked, items, negatives, seed)
    taken = set(zip(*(part.tolist() for part in positive_pairs(asked)), strict=True))
    own = {(query, int(item)) for query, item in enumerate(asked.own_Q) if item >= 0}
    found = list(zip(pairs.query_P.tolist(), pairs.item_P.tolist(), pairs.kind_P.tolist(), strict=True))
    assert {(query, item) for query, item, kind in found if kind == TAKEN} == taken
    assert len({(query, item) for query, item, _ in found}) == len(found)
    for query, item, kind in found:
        if kind == TAKEN:
            continue
        for other in (one for of, one in taken | own if of == query):
            assert items.product_N[item] != items.product_N[other]
            assert items.text_N[item] < 0 or items.text_N[item] != items.text_N[other]
        if kind == SAME_CATEGORY:
            widest = items.categories[item].as_py().split(" > ")[0]
            assert widest in {
                (items.categories[one].as_py() or "").split(" > ")[0] for of, one in taken if of == query
            }


def test_shown_items_are_negatives_unless_the_query_took_them_elsewhere() -> None:
    items = catalogue(["A"] * 4, [0, 1, 2, 3], [-1] * 4)
    pairs = label_pairs(searches([(0, 0, 1), (0, 1, 2), (1, 3, 1)]), items, 0, 0)
    is_shown = pairs.kind_P == SHOWN
    found = np.stack([pairs.query_P[is_shown], pairs.item_P[is_shown]], 1)
    assert found.tolist() == [[0, 2], [1, 1]]


def test_what_a_query_took_elsewhere_is_never_sampled() -> None:
    items = catalogue(["A"] * 3, [0, 1, 2], [-1] * 3)
    known = np.array([0]), np.array([1])
    for seed in range(20):
        pairs = label_pairs(searches([(0, 0, -1)]), items, 4, seed, known)
        assert pairs.item_P[~pairs.label_P].tolist() == [2]


def test_half_of_the_slots_ask_for_the_same_category_and_the_rest_for_any_item() -> None:
    items = catalogue(["A > B"] * 50 + ["A > C"] * 50, list(range(100)), [-1] * 100)
    asked = searches([(query, query, -1) for query in range(100)])
    pairs = label_pairs(asked, items, 4, 0)
    counts = np.bincount(pairs.kind_P, minlength=4)
    assert counts[SAME_CATEGORY] == pytest.approx(200, abs=15)
    assert counts[ANY] == pytest.approx(200, abs=15)
    same = pairs.kind_P == SAME_CATEGORY
    assert ((pairs.item_P[same] < 50) == (pairs.query_P[same] < 50)).all()


def test_who_has_no_category_gets_any_item_and_a_single_product_has_no_negative() -> None:
    items = catalogue([None] * 5, list(range(5)), [-1] * 5)
    kinds = label_pairs(searches([(0, 0, -1)]), items, 4, 0).kind_P
    assert set(kinds.tolist()) == {TAKEN, ANY}
    alone = catalogue(["A", "A"], [0, 0], [-1, -1])
    assert label_pairs(searches([(0, 0, -1)]), alone, 4, 0).kind_P.tolist() == [TAKEN]


def test_levels_are_numbered_by_the_whole_path_and_only_where_categories_differ() -> None:
    column = pa.chunked_array([pa.array(["G > A > X", "G > B > X", "G > A", None], pa.string())])
    levels, level_NL = category_numbers(column, None)
    assert levels == (2, 3)
    assert level_NL[0, 0] == level_NL[2, 0] != level_NL[1, 0]
    assert level_NL[0, 1] != level_NL[1, 1]
    assert level_NL[2, 1] == -1
    assert (level_NL[3] == -1).all()
    asked, same_NL = category_numbers(column, (1, 5))
    assert asked == (1, 5)
    assert same_NL[:3, 0].tolist() == [0, 0, 0]
    assert (same_NL[:, 1] == -1).all()
