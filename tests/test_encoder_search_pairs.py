"""Training pairs of searches: against brute force, what is left out, and how they are split."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from encoder_helpers import DAY
from encoder_pair_cases import (
    HELD_OUT,
    ITEM_IDS,
    KINDS,
    START,
    USERS,
    Row,
    event,
    event_pairs,
    impression,
    listed,
    search,
    search_pairs,
    table,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.pairs import MAX_VALIDATION, pairs_from_searches
from moonrec.errors import UserError
from moonrec.table_spec import SEARCHES


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*ITEM_IDS, "unknown"]),
            st.none() | st.integers(0, 30),
            st.none() | USERS,
            st.booleans(),
        ),
        min_size=1,
        max_size=25,
    ),
    HELD_OUT,
)
def test_search_pairs_are_those_of_brute_force(
    rows: list[tuple[str, int | None, str | None, bool]], holdout: list[Row] | None
) -> None:
    first: dict[str, int] = {}
    for row in holdout or []:
        first[row["user_id"]] = min(first.get(row["user_id"], row["timestamp"]), row["timestamp"])
    earliest = min(first.values(), default=0)
    expected = [
        (len(ITEM_IDS) + number, ITEM_IDS.index(item))
        for number, (item, days, user, usable) in enumerate(rows)
        if item in ITEM_IDS
        and usable
        and (holdout is None or days is None or START + days * DAY < first.get(user or "", earliest))
    ]
    searches = [search(item, days, user) for item, days, user, _ in rows]
    unknown = sum(item not in ITEM_IDS for item, *_ in rows)
    with tempfile.TemporaryDirectory() as folder:
        usable = [row[3] for row in rows]
        if unknown > len(rows) / 2:
            with pytest.raises(UserError, match="the catalogue lacks"):
                search_pairs(searches, Path(folder), usable, holdout)
            return
        if not expected:
            with pytest.raises(UserError, match="no search with a usable query"):
                search_pairs(searches, Path(folder), usable, holdout)
            return
        source = search_pairs(searches, Path(folder), usable, holdout)
    assert sorted(listed(source.training) + listed(source.validation)) == expected
    assert len(source.validation) == (max(1, round(0.1 * len(expected))) if len(expected) > 1 else 0)
    assert (source.training.user == -1).all()
    assert (source.unknown.count, source.unknown.rows) == (unknown, len(rows))


def test_searches_for_unknown_items_are_counted_and_named_and_refused_above_half(tmp_path: Path) -> None:
    some = search_pairs([search(item) for item in ("i0", "gone", "i1", "lost", "gone", "i2")], tmp_path)
    assert (some.unknown.count, some.unknown.rows, some.unknown.examples) == (3, 6, ("gone", "lost"))
    assert len(some.training) + len(some.validation) == 3
    most = [search(item) for item in ("i0", *(f"x{k}" for k in range(1200)))]
    with pytest.raises(
        UserError, match=r"1,200 of 1,201 searches .* 'x0', 'x1', 'x2', 'x3', 'x4'; "
    ) as error:
        search_pairs(most, tmp_path)
    assert str(tmp_path / "searches.parquet") in str(error.value)


def test_what_was_shown_and_not_taken_and_what_the_query_shows_are_catalogue_rows(tmp_path: Path) -> None:
    rows = [
        search("i0") | {"negative_item_id": "i3", "query_item_id": "i2"},
        search("i1") | {"negative_item_id": None, "query_item_id": None},
        search("i2") | {"negative_item_id": "gone", "query_item_id": "gone"},
        search("i3") | {"negative_item_id": "i0", "query_item_id": "i3"},  # took its own picture's item
    ]
    source = search_pairs(rows, tmp_path)
    found = {
        row: (shown, own)
        for pairs in (source.training, source.validation)
        for row, shown, own in zip(
            pairs.positive.tolist(), pairs.shown_negative.tolist(), pairs.own.tolist(), strict=True
        )
    }
    assert found == {0: (3, 2), 1: (-1, -1), 2: (-1, -1)}
    events = event_pairs([event("u", "i0", 0), event("u", "i1", 1)], tmp_path)
    assert events.training.shown_negative.tolist() == [-1]


def test_choosing_event_types_of_searches_leaves_the_split_as_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [search(ITEM_IDS[k % 4]) | {"event": KINDS[rng.integers(3)]} for k in range(300)]
    everything = search_pairs(rows, tmp_path)
    bought = search_pairs(rows, tmp_path, kinds=("purchase",))
    is_bought = {len(ITEM_IDS) + number for number, row in enumerate(rows) if row["event"] == "purchase"}
    for name in ("training", "validation"):
        kept = [pair for pair in listed(getattr(everything, name)) if pair[0] in is_bought]
        assert listed(getattr(bought, name)) == kept
    with pytest.raises(UserError, match=r"no event is called 'buy'; there are: cart, click, purchase"):
        search_pairs(rows, tmp_path, kinds=("buy",))
    with pytest.raises(UserError, match="no column `event`"):
        search_pairs([search("i0")], tmp_path, kinds=("click",))


def test_no_search_of_the_chosen_type_that_can_be_used_is_said(tmp_path: Path) -> None:
    rows = [search("i0") | {"event": "click"}, search("i1") | {"event": "click"}]
    rows.append(search("gone") | {"event": "purchase"})
    with pytest.raises(UserError, match="names an item of the catalogue and ended in purchase"):
        search_pairs(rows, tmp_path, kinds=("purchase",))


def test_the_split_of_searches_follows_the_seed_and_is_bounded(tmp_path: Path) -> None:
    searches = table([search(ITEM_IDS[i % 4]) for i in range(21_000)], SEARCHES, tmp_path)
    usable = np.ones(21_000, bool)
    one, same, other = (pairs_from_searches(searches, ITEM_IDS, usable, seed) for seed in (0, 0, 1))
    assert len(one.validation) == MAX_VALIDATION
    assert listed(one.validation) == listed(same.validation)
    assert listed(one.validation) != listed(other.validation)


def test_searches_without_dates_are_all_kept(tmp_path: Path) -> None:
    searches = [{"query_text": "socks", "item_id": item} for item in ITEM_IDS]
    source = search_pairs(searches, tmp_path, holdout=[impression("u", 0)])
    assert len(source.training) + len(source.validation) == 4
