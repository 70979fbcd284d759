"""Training pairs against brute force; nothing from the held-out period is learnt."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_helpers import DAY, write_table
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.pairs import (
    MAX_VALIDATION,
    Pairs,
    PairSource,
    pairs_from_events,
    pairs_from_searches,
    product_codes,
)
from moonrec.errors import UserError
from moonrec.table_spec import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, TableSpec
from moonrec.tables import Table, open_table

ITEM_IDS = ["i0", "i1", "i2", "i3"]
START = 1_600_000_000_000_000
KINDS = ("click", "cart", "purchase")
Row = dict[str, Any]


def table(rows: list[Row], spec: TableSpec, folder: Path) -> Table:
    return open_table(write_table(folder / f"{spec.name}.parquet", rows), spec)


def event(user: str, item: str, days: float, kind: str = "click") -> Row:
    return {"user_id": user, "item_id": item, "timestamp": START + int(days * DAY), "event": kind}


def impression(user: str, days: float) -> Row:
    return {"user_id": user, "item_id": "i0", "timestamp": START + int(days * DAY), "label": 0}


def search(item: str, days: float | None = None, user: str | None = None) -> Row:
    time = None if days is None else START + int(days * DAY)
    return {"query_text": "socks", "item_id": item, "timestamp": time, "user_id": user}


def event_pairs(
    events: list[Row],
    folder: Path,
    *,
    holdout: list[Row] | None = None,
    kinds: tuple[str, ...] = (),
    window: int = 3,
    gap: float = 30.0,
) -> PairSource:
    return pairs_from_events(
        table(events, EVENTS, folder),
        ITEM_IDS,
        event_types=kinds,
        holdout=None if holdout is None else table(holdout, IMPRESSIONS, folder),
        window=window,
        max_gap_days=gap,
    )


def search_pairs(
    searches: list[Row], folder: Path, usable: list[bool] | None = None, holdout: list[Row] | None = None
) -> PairSource:
    return pairs_from_searches(
        table(searches, SEARCHES, folder),
        ITEM_IDS,
        np.array([True] * len(searches) if usable is None else usable),
        seed=0,
        holdout=None if holdout is None else table(holdout, IMPRESSIONS, folder),
    )


def listed(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.anchor.tolist(), pairs.positive.tolist(), strict=True))


def brute_force(
    events: list[Row], holdout: list[Row] | None, kinds: tuple[str, ...], window: int, gap: float
) -> tuple[list[tuple[int, int]], Counter[tuple[int, int]]]:
    """Pairs in the order of the later event's time (as far as that decides), and the trained ones counted."""
    first: dict[str, int] = {}
    for row in holdout or []:
        first[row["user_id"]] = min(first.get(row["user_id"], row["timestamp"]), row["timestamp"])
    earliest = min(first.values(), default=0)
    kept: dict[str, list[Row]] = {}
    for row in events:
        allowed = holdout is None or row["timestamp"] < first.get(row["user_id"], earliest)
        if allowed and (not kinds or row["event"] in kinds) and row["item_id"] in ITEM_IDS:
            kept.setdefault(row["user_id"], []).append(row)
    found = []
    for rows in kept.values():
        rows.sort(key=lambda row: row["timestamp"])
        for i, one in enumerate(rows):
            for other in rows[i + 1 : i + 1 + window]:
                close = other["timestamp"] - one["timestamp"] <= gap * DAY
                if close and one["item_id"] != other["item_id"]:
                    pair = (ITEM_IDS.index(one["item_id"]), ITEM_IDS.index(other["item_id"]))
                    found.append((other["timestamp"], pair))
    found.sort(key=lambda entry: entry[0])
    return [pair for _, pair in found], Counter(pair for _, pair in found)


USERS = st.sampled_from(["u1", "u2", "u3"])
LOG = st.lists(
    st.builds(
        event,
        USERS,
        st.sampled_from([*ITEM_IDS, "unknown"]),
        st.integers(0, 40).map(lambda half_days: half_days / 2),
        st.sampled_from(KINDS),
    ),
    min_size=1,
    max_size=25,
)
HELD_OUT = st.none() | st.lists(
    st.builds(impression, st.sampled_from(["u1", "u2", "other"]), st.integers(8, 24)), min_size=1, max_size=4
)


@settings(max_examples=120, deadline=None)
@given(
    LOG, HELD_OUT, st.sampled_from([(), ("click",), ("cart", "click")]), st.integers(1, 4), st.integers(0, 8)
)
def test_event_pairs_are_those_of_brute_force(
    events: list[Row], holdout: list[Row] | None, kinds: tuple[str, ...], window: int, gap: int
) -> None:
    kinds = tuple(kind for kind in kinds if any(row["event"] == kind for row in events))
    in_order, expected = brute_force(events, holdout, kinds, window, gap)
    with tempfile.TemporaryDirectory() as folder:
        arguments: dict[str, Any] = {"holdout": holdout, "kinds": kinds, "window": window, "gap": float(gap)}
        if not expected:
            with pytest.raises(UserError, match="nothing to learn from"):
                event_pairs(events, Path(folder), **arguments)
            return
        source = event_pairs(events, Path(folder), **arguments)
    later = round(0.1 * len(in_order))
    training, validation = Counter(listed(source.training)), Counter(listed(source.validation))
    assert training.total() == len(in_order) - later
    assert training + validation <= expected
    # What is missing is the part of the latest pairs that training saw, in either direction.
    for pair in (expected - training - validation).elements():
        assert pair in training or pair[::-1] in training
    for pair in validation:
        assert pair not in training
        assert pair[::-1] not in training


def test_window_and_gap_bound_the_pairs(tmp_path: Path) -> None:
    events = [event("u", f"i{k}", days) for k, days in enumerate((0, 1, 2, 40))]
    assert listed(event_pairs(events, tmp_path, window=1).training) == [(0, 1), (1, 2)]
    assert listed(event_pairs(events, tmp_path, window=2).training) == [(0, 1), (1, 2), (0, 2)]
    assert (2, 3) in listed(event_pairs(events, tmp_path, gap=38).training)
    assert (2, 3) not in listed(event_pairs(events, tmp_path, gap=37.999).training)


def test_events_of_one_user_in_any_order_of_the_file_and_never_across_users(tmp_path: Path) -> None:
    events = [event("u", "i1", 2), event("v", "i2", 0), event("u", "i0", 1), event("v", "i3", 1)]
    source = event_pairs(events, tmp_path)
    assert sorted(listed(source.training)) == [(0, 1), (2, 3)]
    assert len(np.unique(source.training.user)) == 2


def test_nothing_at_or_after_a_users_first_held_out_impression_becomes_a_pair(tmp_path: Path) -> None:
    events = [event("u", f"i{k}", days) for k, days in enumerate((0, 1, 5, 6))]
    at_the_time = event_pairs(events, tmp_path, holdout=[impression("u", 9), impression("u", 5)])
    assert listed(at_the_time.training) == [(0, 1)]
    just_after = event_pairs(events, tmp_path, holdout=[impression("u", 5.001)])
    assert set(listed(just_after.training)) == {(0, 1), (0, 2), (1, 2)}


def test_users_without_held_out_rows_are_cut_at_the_earliest_of_all(tmp_path: Path) -> None:
    events = [event(user, f"i{k}", days) for user in ("u", "v") for k, days in enumerate((0, 1, 5))]
    source = event_pairs(events, tmp_path, holdout=[impression("u", 9), impression("other", 3)])
    of_u, of_v = (
        {
            pair
            for pair, user in zip(listed(source.training), source.training.user, strict=True)
            if user == code
        }
        for code in (0, 1)
    )
    assert of_u == {(0, 1), (0, 2), (1, 2)}
    assert of_v == {(0, 1)}


def test_the_latest_tenth_of_the_pairs_is_for_validation(tmp_path: Path) -> None:
    events = [event("u", ITEM_IDS[k % 2], k) for k in range(20)]  # i0 and i1 in turn: all pairs are alike
    events += [event("w", "i2", 30), event("w", "i3", 30.5)]
    source = event_pairs(events, tmp_path, window=1)
    assert len(source.training) == 18
    assert listed(source.validation) == [(2, 3)]


def test_event_types_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    events = [event("u", "i0", 0), event("u", "i1", 1, "cart")]
    with pytest.raises(UserError, match=r"no event is called 'buy'; there are: cart, click"):
        event_pairs(events, tmp_path, kinds=("buy",))
    without = [{name: value for name, value in row.items() if name != "event"} for row in events]
    assert listed(event_pairs(without, tmp_path).training) == [(0, 1)]
    with pytest.raises(UserError, match="no column `event`"):
        event_pairs(without, tmp_path, kinds=("click",))


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
    with tempfile.TemporaryDirectory() as folder:
        usable = [row[3] for row in rows]
        if not expected:
            with pytest.raises(UserError, match="no search with a usable query"):
                search_pairs(searches, Path(folder), usable, holdout)
            return
        source = search_pairs(searches, Path(folder), usable, holdout)
    assert sorted(listed(source.training) + listed(source.validation)) == expected
    assert len(source.validation) == (max(1, round(0.1 * len(expected))) if len(expected) > 1 else 0)
    assert (source.training.user == -1).all()


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


def test_skus_of_a_product_share_a_code_and_others_share_none(tmp_path: Path) -> None:
    products = ["p", None, "q", "p", None, "q"]
    rows = [{"item_id": f"i{i}", "title": "sock", "product_id": p} for i, p in enumerate(products)]
    ids = [str(row["item_id"]) for row in rows]
    codes = product_codes(table(rows, ITEMS, tmp_path), ids)
    assert codes[0] == codes[3]
    assert codes[2] == codes[5]
    assert len(np.unique(codes)) == 4
    assert (codes >= 0).all()
    without = [{"item_id": row["item_id"], "title": "sock"} for row in rows]
    assert len(np.unique(product_codes(table(without, ITEMS, tmp_path), ids))) == 6


def test_product_codes_hold_across_the_files_of_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "items"
    folder.mkdir()
    for part in range(3):
        rows = [{"item_id": f"{part}-{i}", "title": "x", "product_id": f"p{i}"} for i in range(2)]
        write_table(folder / f"{part}.parquet", rows)
    codes = product_codes(open_table(folder, ITEMS), [f"{p}-{i}" for p in range(3) for i in range(2)])
    assert codes.tolist() == [codes[0], codes[1]] * 3
