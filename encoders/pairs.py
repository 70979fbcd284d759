"""Training pairs: what a user searched and took, and what one user took close in time.

Behaviour is the teacher. Everything is an array of row numbers into one feature table, in which the queries
follow the catalogue. Events that a ranking model will be tested on never become pairs: `holdout` cuts each
user's events at the user's first held-out impression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moonrec.errors import UserError
from moonrec.ids import codes_of, rows_of
from moonrec.tables import Table

VALIDATION_SHARE = 0.1
MAX_VALIDATION = 2000


@dataclass(frozen=True)
class Pairs:
    """Pairs as arrays of equal length.

    `anchor` and `positive` are feature rows. `user` is a code for whose taste the pair shows: one user's
    event pairs are not each other's negatives; it is -1 for searches, which ask for one thing, whoever asks.
    `own` is the catalogue row that the anchor is or shows (-1: none): neither a negative nor an answer.
    """

    anchor: np.ndarray
    positive: np.ndarray
    user: np.ndarray
    own: np.ndarray

    def __len__(self) -> int:
        return len(self.anchor)

    def __getitem__(self, rows: np.ndarray) -> Pairs:
        return Pairs(self.anchor[rows], self.positive[rows], self.user[rows], self.own[rows])


@dataclass(frozen=True)
class PairSource:
    """Pairs of one kind, split into those trained on and those that early stopping looks at.

    `undated` rows had no timestamp, so that a holdout could not judge them.
    """

    name: str
    training: Pairs
    validation: Pairs
    undated: int = 0


def product_codes(items: Table, item_ids: Sequence[str]) -> np.ndarray:
    """One number per catalogue row, equal for the SKUs of one product (`product_id`)."""
    if "product_id" not in items.column_names:
        return np.arange(len(item_ids))
    products = items.read(["product_id"]).column("product_id")
    own = pa.chunked_array([pa.array([f"\0{i}" for i in range(len(item_ids))])])
    return (
        pc.fill_null(products, own.combine_chunks()).combine_chunks().dictionary_encode().indices.to_numpy()
    )


def pairs_from_searches(
    searches: Table,
    item_ids: Sequence[str],
    usable_query: np.ndarray,
    seed: int,
    holdout: Table | None = None,
) -> PairSource:
    """(query, item taken) pairs; queries are the rows after the catalogue's in the feature table.

    Args:
        searches: the table; rows whose item is not in the catalogue are left out.
        item_ids: the catalogue's ids, in feature order.
        usable_query: per query, whether there is anything to encode.
        seed: of the split into training and validation.
        holdout: impressions that will be tested on; dated searches from then on are left out.

    Raises:
        UserError: no search names an item of the catalogue.
    """
    catalogue = pa.array(item_ids, pa.string())
    shown = "query_item_id" in searches.column_names
    table = searches.read(["item_id", *(["query_item_id"] if shown else [])])
    rows = rows_of(table.column("item_id"), catalogue)
    own = rows_of(table.column("query_item_id"), catalogue) if shown else np.full(len(rows), -1)
    keep = (rows >= 0) & (rows != own) & usable_query
    undated = len(rows)
    if "timestamp" in searches.column_names:
        times = searches.read(["timestamp"]).column("timestamp")
        undated = times.null_count
        if holdout is not None:
            keep &= _before_holdout(searches, times, holdout)
    known = np.flatnonzero(keep)
    if not len(known):
        raise UserError(f"{searches.path}: no search with a usable query names an item of the catalogue")
    pairs = Pairs(known + len(item_ids), rows[known], np.full(len(known), -1), own[known])
    order = np.random.default_rng((seed, 1)).permutation(len(pairs))
    held = min(MAX_VALIDATION, max(1, round(VALIDATION_SHARE * len(pairs)))) if len(pairs) > 1 else 0
    return PairSource("searches", pairs[np.sort(order[held:])], pairs[order[:held]], undated)


def pairs_from_events(
    events: Table,
    item_ids: Sequence[str],
    *,
    event_types: Sequence[str],
    holdout: Table | None,
    window: int,
    max_gap_days: float,
) -> PairSource:
    """Pairs of items that one user acted on close in time: at most `window` steps and `max_gap_days` apart.

    The latest tenth of the pairs (by time) is for validation, less those pairs of items that training saw.

    Raises:
        UserError: nothing is left, or `event_types` names an event that does not occur.
    """
    users, rows, times = _events_before(events, item_ids, event_types, holdout)
    order = np.lexsort((times, users))
    users, rows, times = users[order], rows[order], times[order]
    found: list[np.ndarray] = []
    gap = int(min(max_gap_days, 1e8) * 86_400e6)
    for step in range(1, window + 1):
        first, second = np.arange(len(rows) - step), np.arange(step, len(rows))
        close = (users[first] == users[second]) & (times[second] - times[first] <= gap)
        found.append(np.stack([first, second], 1)[close & (rows[first] != rows[second])])
    joint = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
    if not len(joint):
        raise UserError(
            f"{events.path}: no user acted on two items of the catalogue within {window} steps and "
            f"{max_gap_days:g} days before the held-out time; nothing to learn from"
        )
    joint = joint[np.argsort(times[joint[:, 1]], kind="stable")]
    pairs = Pairs(rows[joint[:, 0]], rows[joint[:, 1]], users[joint[:, 1]], rows[joint[:, 0]])
    cut = len(pairs) - round(VALIDATION_SHARE * len(pairs))
    training, later = pairs[np.arange(cut)], pairs[np.arange(cut, len(pairs))]
    unseen = np.flatnonzero(~np.isin(_undirected(later, len(item_ids)), _undirected(training, len(item_ids))))
    if len(unseen) > MAX_VALIDATION:
        unseen = unseen[np.linspace(0, len(unseen) - 1, MAX_VALIDATION).astype(np.int64)]
    return PairSource("events", training, later[unseen])


def _events_before(
    events: Table, item_ids: Sequence[str], event_types: Sequence[str], holdout: Table | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User code, item row and time of the events that may be learnt from."""
    columns = ["user_id", "item_id", "timestamp", *(["event"] if event_types else [])]
    if event_types and "event" not in events.column_names:
        raise UserError(f"{events.path}: has no column `event`, so --event-types cannot choose among them")
    table = events.read(columns)
    for wanted in event_types:
        if not pc.any(pc.equal(table.column("event"), wanted)).as_py():
            kinds = ", ".join(sorted(k for k in pc.unique(table.column("event")).to_pylist() if k)[:10])
            raise UserError(f"{events.path}: no event is called {wanted!r}; there are: {kinds}")
    if event_types:
        table = table.filter(pc.is_in(table.column("event"), pa.array(event_types, pa.string())))
    users, names = codes_of(table.column("user_id"))
    times = table.column("timestamp").to_numpy()
    rows = rows_of(table.column("item_id"), pa.array(item_ids, pa.string()))
    keep = rows >= 0
    if holdout is not None:
        keep &= times < _first_held_out(holdout, names)[users]
    return users[keep], rows[keep], times[keep]


def _before_holdout(searches: Table, times: pa.ChunkedArray, holdout: Table) -> np.ndarray:
    """Which dated searches are earlier than their user's held-out time; undated ones are kept."""
    nobody = pa.chunked_array([pa.nulls(len(times), pa.string())])
    named = "user_id" in searches.column_names
    users = searches.read(["user_id"]).column("user_id") if named else nobody
    codes, names = codes_of(pc.fill_null(users, ""))
    limit = _first_held_out(holdout, names)[codes]
    return pc.is_null(times).to_numpy() | (pc.fill_null(times, 0).to_numpy() < limit)


def _first_held_out(holdout: Table, known_users: pa.Array) -> np.ndarray:
    """Per user the time of the first held-out row; users without one are cut at the earliest row of all."""
    table = holdout.read(["user_id", "timestamp"])
    times = table.column("timestamp").to_numpy()
    rows = rows_of(table.column("user_id"), known_users)
    first = np.full(len(known_users), times.min())
    named = rows >= 0
    first[np.unique(rows[named])] = np.iinfo(np.int64).max
    np.minimum.at(first, rows[named], times[named])
    return first


def _undirected(pairs: Pairs, items: int) -> np.ndarray:
    low, high = np.minimum(pairs.anchor, pairs.positive), np.maximum(pairs.anchor, pairs.positive)
    return low * items + high
