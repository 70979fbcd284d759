"""What queries and items can be shown as, and how often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from encoder_helpers import write_table
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.modality_mix import (
    MODALITIES,
    ROUND_ONE,
    ROUND_TWO,
    TITLE_AND_IMAGE,
    Contents,
    ModalityMix,
    SourcePools,
    pools_of,
)
from encoders.pairs import Pairs
from encoders.products import EVERYTHING, IMAGE_ONLY, TEXT_ONLY, TITLE_ONLY, View
from moonrec.errors import UserError
from moonrec.tables import ITEMS, open_table

# What a row has: its picture, its title, other words.
ROW = st.tuples(st.booleans(), st.booleans(), st.booleans())
FULL = (True, True, True)
Row = tuple[bool, bool, bool]


def contents(rows: list[Row]) -> Contents:
    image, title, other = np.array(rows, bool).reshape(len(rows), 3).T
    return Contents(image, title | other, title)


def pairs(anchor: np.ndarray, positive: np.ndarray) -> Pairs:
    nothing = np.full(len(anchor), -1)
    return Pairs(anchor, positive, nothing, nothing, nothing)


def pools(queries: list[Row], items: list[Row], mix: str = "12:3:2", round_: int = 1) -> SourcePools:
    """Of pairs of query k with item k."""
    rows = np.arange(len(queries))
    combinations = ROUND_ONE if round_ == 1 else ROUND_TWO
    return pools_of(
        pairs(rows + len(items), rows), contents(items + queries), combinations, ModalityMix.parse(mix)
    )


def has_all(row: Row, view: View) -> bool:
    image, title, other = row
    words = title if view & TEXT_ONLY == TITLE_ONLY else title or other
    return (image or not view & IMAGE_ONLY) and (words or not view & TEXT_ONLY)


def has_any(row: Row, view: View) -> bool:
    image, title, other = row
    words = title if view & TEXT_ONLY == TITLE_ONLY else title or other
    return bool((image and view & IMAGE_ONLY) or (words and view & TEXT_ONLY))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(ROW, ROW), min_size=2, max_size=25),
    st.sampled_from(["12:3:2", "1:0:0", "0:1:1", "0:0:3"]),
    st.sampled_from([1, 2]),
)
def test_a_pool_holds_exactly_the_pairs_that_its_views_can_show(
    rows: list[tuple[Row, Row]], mix: str, round_: int
) -> None:
    queries, items = [query for query, _ in rows], [item for _, item in rows]
    found = pools(queries, items, mix, round_)
    by_views = {(pool.combination.query, pool.combination.item): pool for pool in found.pools}
    shares = ModalityMix.parse(mix)
    reached: set[int] = set()
    for combination in ROUND_ONE if round_ == 1 else ROUND_TWO:
        expected = [
            number
            for number in range(len(rows))
            if has_all(queries[number], combination.query) and has_any(items[number], combination.item)
        ]
        pool = by_views.get((combination.query, combination.item))
        if len(expected) < 2 or not shares.share(combination.modality):
            assert pool is None
        else:
            assert pool is not None
            assert pool.rows.tolist() == expected
            reached.update(expected)
    assert found.hidden == len(rows) - len(reached)
    if found.pools:
        assert sum(pool.share for pool in found.pools) == pytest.approx(1)


def test_with_everything_there_the_shares_are_those_of_the_mix_and_of_the_paper() -> None:
    found = pools([FULL] * 5, [FULL] * 5)
    assert found.shares() == pytest.approx({"image": 12 / 17, "text": 3 / 17, "both": 2 / 17})
    assert found.missing == ()
    share = {(pool.combination.query, pool.combination.item): pool.share for pool in found.pools}
    assert share[TITLE_ONLY, EVERYTHING] == pytest.approx(3 / 17 * 0.5 / 1.1)
    assert share[IMAGE_ONLY, TITLE_AND_IMAGE] == pytest.approx(12 / 17 * 0.5 / 0.9)
    assert share[EVERYTHING, EVERYTHING] == pytest.approx(2 / 17 * 0.1 / 0.6)


def test_a_modality_without_pairs_leaves_its_share_to_the_others() -> None:
    photos = pools([(True, False, False)] * 4, [FULL] * 4)
    assert photos.shares() == pytest.approx({"image": 1, "text": 0, "both": 0})
    assert photos.missing == ("text", "both")
    unwanted = pools([FULL] * 4, [FULL] * 4, "1:0:1")
    assert unwanted.shares() == pytest.approx({"image": 0.5, "text": 0, "both": 0.5})
    assert unwanted.missing == ()


def test_in_the_second_round_the_item_is_always_shown_whole() -> None:
    found = pools([FULL] * 4, [(False, False, True)] * 4, round_=2)
    assert {pool.combination.item for pool in found.pools} == {EVERYTHING}
    assert [pool.combination.modality for pool in found.pools] == list(MODALITIES)


def test_a_picture_without_words_is_no_query_of_both() -> None:
    found = pools([(True, False, False), FULL, FULL], [FULL] * 3, round_=2)
    assert {p.combination.modality: p.rows.tolist() for p in found.pools} == {
        "image": [0, 1, 2],
        "text": [1, 2],
        "both": [1, 2],
    }


def test_titles_come_from_the_catalogue_and_the_words_of_a_query_are_its_title(tmp_path: Path) -> None:
    rows = [{"item_id": str(k), "title": title} for k, title in enumerate(["sock", None, "  ", "hat"])]
    items = open_table(write_table(tmp_path / "items.parquet", rows), ITEMS)
    has_text = np.array(
        [True, True, True, False, True, False]
    )  # what the tokenizer made of the last item: no
    found = Contents.of(np.ones(6, bool), has_text, items)
    assert found.has_title.tolist() == [True, False, False, False, True, False]
    assert found.has_text is has_text


@pytest.mark.parametrize("text", ["12:3", "a:b:c", "1:2:3:4", "-1:2:3", "0:0:0", "nan:1:1", "inf:1:1", ""])
def test_a_mix_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="such as 12:3:2") as error:
        ModalityMix.parse(text)
    assert "\n" not in str(error.value)
    assert repr(text) in str(error.value)
