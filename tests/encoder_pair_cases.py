"""Small logs of events and searches, and the pairs that come of them, for the tests of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from encoder_helpers import DAY, write_table
from hypothesis import strategies as st

from encoders.pairs import Pairs, PairSource, pairs_from_events, pairs_from_searches
from moonrec.table_spec import EVENTS, IMPRESSIONS, SEARCHES, TableSpec
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
    searches: list[Row],
    folder: Path,
    usable: list[bool] | None = None,
    holdout: list[Row] | None = None,
    kinds: tuple[str, ...] = (),
) -> PairSource:
    return pairs_from_searches(
        table(searches, SEARCHES, folder),
        ITEM_IDS,
        np.array([True] * len(searches) if usable is None else usable),
        seed=0,
        holdout=None if holdout is None else table(holdout, IMPRESSIONS, folder),
        event_types=kinds,
    )


def listed(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.anchor.tolist(), pairs.positive.tolist(), strict=True))


USERS = st.sampled_from(["u1", "u2", "u3"])
HELD_OUT = st.none() | st.lists(
    st.builds(impression, st.sampled_from(["u1", "u2", "other"]), st.integers(8, 24)), min_size=1, max_size=4
)
