"""Cleaning of purchases: every step against brute force, counted, and on tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoder_helpers import DAY, write_table
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.cleaning import (
    CleaningSteps,
    Evidence,
    category_weights,
    clean,
    exposure_counts,
    first_of_each,
    hardest_queries,
    query_codes,
    top_categories,
)
from encoders.pairs import Pairs
from encoders.products import Aspect, Product
from moonrec.errors import UserError
from moonrec.tables import IMPRESSIONS, ITEMS, open_table

START = 1_600_000_000_000_000
NONE = CleaningSteps(False, False, False, False)
# Five items, of which 0 and 1 are SKUs of one product, and six queries, of which 5 and 6 are the same.
EVIDENCE = Evidence(
    product_N=np.array([0, 0, 1, 2, 3]),
    query_R=np.array([0, 0, 1, 2, 3, 10, 10, 11, 12, 13, 14]),
    enough_R=np.array([True, True, True, True, False, True, True, True, True, True, False]),
    category_N=np.array([0, 0, 0, 1, 1]),
    exposures_N=np.array([1, 1, 1, 2, 1]),
)


def pairs(*listed: tuple[int, int]) -> Pairs:
    anchor, positive = np.array(listed, np.int64).reshape(-1, 2).T
    nothing = np.full(len(anchor), -1)
    return Pairs(anchor, positive, nothing, nothing, nothing)


def listed(found: Pairs) -> list[tuple[int, int]]:
    return list(zip(found.anchor.tolist(), found.positive.tolist(), strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9)), max_size=40), st.integers(0, 30))
def test_the_hardest_queries_of_each_product_are_those_of_brute_force(
    rows: list[tuple[int, int]], fewest: int
) -> None:
    product, cosine = np.array(rows, np.int64).reshape(-1, 2).T
    kept, number = hardest_queries(cosine / 10, product, fewest)

    def keep(count: int) -> set[int]:
        found: set[int] = set()
        for code in set(product.tolist()):
            mine = sorted(np.flatnonzero(product == code), key=lambda row: (cosine[row], row))
            found.update(int(row) for row in mine[:count])
        return found

    assert kept.tolist() == sorted(keep(number))
    assert len(kept) >= min(fewest, len(rows))
    assert number == 1 or len(keep(number - 1)) < fewest


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_of_pairs_with_equal_codes_the_first_one_stays(rows: list[tuple[int, int]]) -> None:
    one, other = np.array(rows, np.int64).reshape(-1, 2).T
    assert first_of_each(one, other).tolist() == sorted({row: rows.index(row) for row in rows}.values())


def test_all_steps_together_are_counted_one_by_one() -> None:
    found = clean(
        "searches",
        pairs((5, 0), (6, 1), (7, 0), (8, 2), (9, 3), (10, 3), (7, 4)),
        np.array([0.5, 0.1, 0.3, 0.9, 0.2, 0.1, 0.1]),
        EVIDENCE,
        fewest=0,
    )
    # (10, 3) and (7, 4) name too little, (6, 1) is (5, 0) again, and (7, 0) is harder than (5, 0).
    assert listed(found.pairs) == [(7, 0), (8, 2), (9, 3)]
    assert found.counts == {
        "entity_filter": {"before": 7, "after": 5},
        "merge_skus": {"before": 5, "after": 4},
        "hardest_query": {"before": 4, "after": 3, "queries_per_product": 1},
        "match_exposure": {"before": 3, "after": 3},
    }
    assert found.weights == pytest.approx([0.75, 0.75, 1.5])


def test_each_step_has_a_switch() -> None:
    rows = pairs((5, 0), (6, 1), (10, 3))
    cosine = np.array([0.5, 0.1, 0.3])

    def left(steps: CleaningSteps, fewest: int = 0) -> list[tuple[int, int]]:
        return listed(clean("searches", rows, cosine, EVIDENCE, fewest=fewest, steps=steps).pairs)

    assert left(NONE) == listed(rows)
    assert clean("searches", rows, cosine, EVIDENCE, fewest=0, steps=NONE).counts == {}
    assert left(replace(NONE, merge_skus=True)) == [(5, 0), (10, 3)]
    assert left(replace(NONE, entity_filter=True)) == [(5, 0), (6, 1)]
    # Without merging, the SKUs 0 and 1 each keep a query; with it, equal queries of their product are one.
    assert left(replace(NONE, hardest_query=True)) == listed(rows)
    assert left(replace(NONE, hardest_query=True, merge_skus=True)) == [(5, 0), (10, 3)]


def test_a_small_catalogue_keeps_as_many_queries_per_product_as_fill_the_batches() -> None:
    many = pairs(*((query, 2) for query in (5, 7, 8, 9)), (7, 3))
    found = clean("searches", many, np.array([0.4, 0.1, 0.3, 0.2, 0.9]), EVIDENCE, fewest=4)
    assert listed(found.pairs) == [(7, 2), (8, 2), (9, 2), (7, 3)]
    assert found.counts["hardest_query"]["queries_per_product"] == 3


def test_an_entity_filter_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="leaves none of the 2 pairs of searches"):
        clean("searches", pairs((10, 0), (5, 4)), np.zeros(2), EVIDENCE, fewest=0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 2), st.integers(1, 20)), min_size=3, max_size=3),
    st.lists(st.integers(0, 2), min_size=1, max_size=40),
)
def test_weighted_pairs_come_in_the_proportions_of_the_exposures(
    items: list[tuple[int, int]], positives: list[int]
) -> None:
    category, exposures = np.array(items).T
    positive = np.array(positives)
    weights, reason = category_weights(category, exposures, positive)
    if (category < 0).all():
        assert weights is None
        assert "categories" in reason
        return
    assert weights is not None
    for code in set(category[positive].tolist()):
        mine = category[positive] == code
        shown = exposures[category == code].sum() / exposures.sum()
        assert np.unique(weights[mine]) == pytest.approx([np.clip(shown / mine.mean(), 0.1, 10)])


def test_without_a_log_or_with_one_of_other_items_there_are_no_weights() -> None:
    category, positive = np.array([0, 1]), np.array([0, 1])
    assert category_weights(category, None, positive)[0] is None
    weights, reason = category_weights(category, np.zeros(2, np.int64), positive)
    assert weights is None
    assert "no impression shows" in reason
    without = replace(EVIDENCE, exposures_N=None)
    found = clean("searches", pairs((5, 0)), np.zeros(1), without, fewest=0)
    assert found.weights is None
    assert found.counts["match_exposure"]["skipped"] == "no impressions tell what is shown"


def test_exposures_are_counted_until_a_users_first_held_out_row(tmp_path: Path) -> None:
    def impressions(name: str, *rows: tuple[str, str, int]) -> Path:
        return write_table(
            tmp_path / f"{name}.parquet",
            [
                {"user_id": user, "item_id": item, "timestamp": START + day * DAY, "label": 0}
                for user, item, day in rows
            ],
        )

    shown = impressions("log", ("u", "a", 1), ("u", "a", 2), ("u", "b", 5), ("v", "b", 1), ("v", "gone", 1))
    log = open_table(shown, IMPRESSIONS)
    assert exposure_counts(log, ["a", "b", "c"]).tolist() == [2, 2, 0]
    held = open_table(impressions("held", ("u", "c", 2)), IMPRESSIONS)
    assert exposure_counts(log, ["a", "b", "c"], held).tolist() == [1, 1, 0]


@pytest.mark.parametrize("root", ["", "Shop > ", "Shop > All > "])
def test_the_widest_category_that_tells_items_apart_is_what_counts(tmp_path: Path, root: str) -> None:
    categories = ["Shoes > Boots", "Shoes>Heels", None, "Toys", "", "Shoes"]
    rows = [
        {"item_id": str(number), "title": "x", "category": root + name if name else name}
        for number, name in enumerate(categories)
    ]
    codes = top_categories(open_table(write_table(tmp_path / "items.parquet", rows), ITEMS)).tolist()
    assert codes[0] == codes[1] == codes[5] >= 0
    assert codes[2] == codes[4] == -1
    assert codes[3] not in (-1, codes[0])


def test_a_catalogue_of_one_category_or_none_has_no_mix_of_them(tmp_path: Path) -> None:
    one = write_table(tmp_path / "one.parquet", [{"item_id": "0", "title": "x", "category": "A > B"}])
    assert top_categories(open_table(one, ITEMS)).tolist() == [0]
    none = write_table(tmp_path / "none.parquet", [{"item_id": "0", "title": "x"}])
    assert top_categories(open_table(none, ITEMS)).tolist() == [-1]


def test_equal_queries_share_a_code_and_none_with_the_catalogue() -> None:
    def query(key: str, text: str | None, image: bytes | None = None) -> Product:
        return Product(key, image, () if text is None else ((Aspect.TITLE, text),))

    batches = [
        [query("row 0", "red sock"), query("row 1", "blue sock")],
        [query("row 2", "red sock"), query("row 3", "red sock", b"photo"), query("row 4", None, b"photo")],
    ]
    codes = query_codes(batches, np.array([0, 0, 1])).tolist()
    assert codes[:3] == [0, 0, 1]
    assert codes[3] == codes[5]
    assert len(set(codes[3:])) == 4
    assert not set(codes[3:]) & {0, 1}
    assert query_codes((), np.array([0, 1])).tolist() == [0, 1]
