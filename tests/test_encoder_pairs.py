"""Training pairs of events against brute force; nothing from the held-out period is learnt."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from encoder_helpers import DAY, write_table
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
    table,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.pairs import HeldOut, PairSource, product_codes, purchase_types
from moonrec.errors import UserError
from moonrec.table_spec import EVENTS, IMPRESSIONS, ITEMS
from moonrec.tables import open_table

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


def test_events_on_unknown_items_are_counted(tmp_path: Path) -> None:
    log = [event("u", item, days) for days, item in enumerate(("i0", "gone", "i1"))]
    source = event_pairs(log, tmp_path, window=1)
    assert listed(source.training) == [(0, 1)]
    assert (source.unknown.count, source.unknown.examples) == (1, ("gone",))


def test_purchases_are_recognised_by_name_in_any_case(tmp_path: Path) -> None:
    def types(*kinds: str | None) -> tuple[str, ...]:
        return purchase_types(
            table([event("u", "i0", 0) | {"event": kind} for kind in kinds], EVENTS, tmp_path)
        )

    assert types("click", "Purchase", "BUY", None, "buyer") == ("BUY", "Purchase")
    assert types("like", "watch") == ()
    assert types(None) == ()
    without = {name: value for name, value in event("u", "i0", 0).items() if name != "event"}
    assert purchase_types(table([without], EVENTS, tmp_path)) == ()


def test_a_later_round_never_trains_on_what_an_earlier_one_held_out(tmp_path: Path) -> None:
    log = [event("u", ITEM_IDS[day % 2], day) for day in range(20)]  # clicks on i0 and i1 in turn
    log += [event("w", "i0", 1, "purchase"), event("w", "i3", 2, "purchase")]
    log += [event("x", "i3", 30, "purchase"), event("x", "i2", 31, "purchase")]
    earlier = event_pairs(log, tmp_path, window=1)
    later = event_pairs(log, tmp_path, window=1, kinds=("purchase",))
    assert listed(earlier.validation) == [(3, 2)]
    assert listed(later.training) == [(0, 3), (3, 2)]
    judged = later.with_validation_of(earlier)
    assert listed(judged.training) == [(0, 3)]
    assert listed(judged.validation) == [(3, 2)]
    nothing = later.training[np.zeros(0, np.int64)]
    assert len(PairSource("events", nothing, nothing).with_validation_of(earlier).training) == 0


def test_a_user_may_be_learnt_from_until_the_first_held_out_row_and_a_stranger_until_the_first_of_all(
    tmp_path: Path,
) -> None:
    rows = [impression("u", 9), impression("u", 5), impression("v", 3)]
    limits = HeldOut(table(rows, IMPRESSIONS, tmp_path)).limits(pa.array(["v", "u", "stranger", None]))
    assert ((limits - START) / DAY).tolist() == [3, 5, 3, 3]


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
