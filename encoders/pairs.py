"""Training pairs: what a user searched and took, and what one user took close in time.

Behaviour is the teacher. Everything is an array of row numbers into one feature table, in which the queries
follow the catalogue. Events that a ranking model will be tested on never become pairs: `HeldOut` cuts each
user's events at the user's first held-out impression.

Shapes: P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moonrec.errors import UserError
from moonrec.ids import codes_of, rows_of
from moonrec.tables import Table

VALIDATION_SHARE = 0.1
MAX_VALIDATION = 2000
# Above this share of searches for unknown items, it is the wrong catalogue rather than a few delisted items.
UNKNOWN_LIMIT = 0.5
# Names of the event that is a purchase, in any case. Ours.
PURCHASES = ("purchase", "order", "buy")
_EXAMPLES = 5


class NoPairs(UserError):
    """A table gives nothing to learn from."""


@dataclass(frozen=True)
class Pairs:
    """Pairs as arrays of shape (P,).

    `anchor` and `positive` are feature rows. `user` is a code for whose taste the pair shows: one user's
    event pairs are not each other's negatives; it is -1 for searches, which ask for one thing, whoever asks.
    `own` is the catalogue row that the anchor is or shows (-1: none): neither a negative nor an answer.
    `shown_negative` is the catalogue row of an item that was shown beside the positive and not taken (-1:
    none is known).
    """

    anchor: np.ndarray
    positive: np.ndarray
    user: np.ndarray
    own: np.ndarray
    shown_negative: np.ndarray

    def __len__(self) -> int:
        return len(self.anchor)

    def __getitem__(self, rows: np.ndarray) -> Pairs:
        return Pairs(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Unknown:
    """How many of a table's rows name items that the catalogue lacks, and which; they are skipped."""

    count: int = 0
    rows: int = 0
    examples: tuple[str, ...] = ()

    @classmethod
    def among(cls, ids: pa.ChunkedArray, rows: np.ndarray) -> Unknown:
        """Of ids and the catalogue rows that were found for them (-1: none)."""
        unknown = np.flatnonzero(rows < 0)
        names = pc.unique(ids.take(pa.array(unknown[: 100 * _EXAMPLES]))).to_pylist()
        return cls(len(unknown), len(rows), tuple(names[:_EXAMPLES]))


@dataclass(frozen=True)
class PairSource:
    """Pairs of one kind, split into those trained on and those that early stopping looks at.

    `undated` rows had no timestamp, so that a holdout could not judge them; `unknown` ones name items that
    the catalogue lacks.
    """

    name: str
    training: Pairs
    validation: Pairs
    undated: int = 0
    unknown: Unknown = field(default_factory=Unknown)

    def with_validation_of(self, earlier: PairSource) -> PairSource:
        """The same training pairs less those that `earlier` holds out, which stay the held-out ones.

        A second round that starts from an encoder trained in a first one has to be judged on pairs that
        neither has seen.
        """
        held, ours = earlier.validation, self.training
        rows = 1 + max(
            (
                int(part.max())
                for pairs in (held, ours)
                for part in (pairs.anchor, pairs.positive)
                if len(pairs)
            ),
            default=0,
        )
        seen = np.isin(_undirected(ours, rows), _undirected(held, rows))
        return replace(self, training=ours[np.flatnonzero(~seen)], validation=held)


class HeldOut:
    """Until when each user's behaviour may be learnt from: the time of the user's first held-out impression.

    Users without one are cut at the earliest held-out impression of all.
    """

    def __init__(self, holdout: Table) -> None:
        table = holdout.read(["user_id", "timestamp"])
        users, self._names = codes_of(table.column("user_id"))
        times = table.column("timestamp").to_numpy()
        self._first = np.full(len(self._names) + 1, np.iinfo(np.int64).max)
        np.minimum.at(self._first, users, times)
        self._first[-1] = times.min()  # found under -1, the row of a user that is not there

    def limits(self, users: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Per user id the microsecond from which on nothing may be learnt, int64."""
        return self._first[rows_of(users, self._names)]


def purchase_types(table: Table) -> tuple[str, ...]:
    """The event types of a table that mean a purchase, as the table spells them; () where none occurs."""
    if "event" not in table.column_names:
        return ()
    kinds = pc.unique(table.read(["event"]).column("event")).to_pylist()
    return tuple(sorted(kind for kind in kinds if kind is not None and kind.casefold() in PURCHASES))


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
    event_types: Sequence[str] = (),
) -> PairSource:
    """(query, item taken) pairs; queries are the rows after the catalogue's in the feature table.

    Args:
        searches: the table; rows whose item is not in the catalogue are counted and left out.
        item_ids: the catalogue's ids, in feature order.
        usable_query: per query, whether there is anything to encode.
        seed: of the split into training and validation, which is the same whatever `event_types` says.
        holdout: impressions that will be tested on; dated searches from then on are left out.
        event_types: only searches that ended in one of these; all of them if empty.

    Raises:
        NoPairs: no search names an item of the catalogue.
        UserError: more than half of them name others, or `event_types` names an event that does not occur.
    """
    chosen = _of_types(searches, event_types)
    optional = [name for name in ("query_item_id", "negative_item_id") if name in searches.column_names]
    table = searches.read(["item_id", *optional])
    catalogue = pa.array(item_ids, pa.string())
    rows = rows_of(table.column("item_id"), catalogue)
    own, shown = (
        rows_of(table.column(name), catalogue) if name in optional else np.full(len(rows), -1)
        for name in ("query_item_id", "negative_item_id")
    )
    unknown = Unknown.among(table.column("item_id"), rows)
    if unknown.count > UNKNOWN_LIMIT * len(rows):
        named = ", ".join(repr(name) for name in unknown.examples)
        raise UserError(
            f"{searches.path}: {unknown.count:,} of {len(rows):,} searches name items that the catalogue "
            f"lacks, such as {named}; give the catalogue that was searched as --items"
        )
    keep = (rows >= 0) & (rows != own) & usable_query
    undated = len(rows)
    if "timestamp" in searches.column_names:
        times = searches.read(["timestamp"]).column("timestamp")
        undated = times.null_count
        if holdout is not None:
            keep &= _before_holdout(searches, times, holdout)
    training, held = _split(np.flatnonzero(keep), seed)
    training, held = training[chosen[training]], held[chosen[held]]
    if not len(training):
        ending = f" and ended in {' or '.join(event_types)}" if event_types else ""
        raise NoPairs(
            f"{searches.path}: no search with a usable query names an item of the catalogue{ending}"
        )

    def pairs(known: np.ndarray) -> Pairs:
        nobody = np.full(len(known), -1)
        return Pairs(known + len(item_ids), rows[known], nobody, own[known], shown[known])

    return PairSource("searches", pairs(training), pairs(held), undated, unknown)


def _split(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows, drawn by the seed."""
    order = np.random.default_rng((seed, 1)).permutation(len(rows))
    held = min(MAX_VALIDATION, max(1, round(VALIDATION_SHARE * len(rows)))) if len(rows) > 1 else 0
    return rows[np.sort(order[held:])], rows[order[:held]]


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
        NoPairs: nothing is left.
        UserError: `event_types` names an event that does not occur.
    """
    users, rows, times, unknown = _events_before(events, item_ids, event_types, holdout)
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
        raise NoPairs(
            f"{events.path}: no user acted on two items of the catalogue within {window} steps and "
            f"{max_gap_days:g} days before the held-out time; nothing to learn from"
        )
    joint = joint[np.argsort(times[joint[:, 1]], kind="stable")]
    first, second = joint[:, 0], joint[:, 1]
    pairs = Pairs(rows[first], rows[second], users[second], rows[first], np.full(len(joint), -1))
    cut = len(pairs) - round(VALIDATION_SHARE * len(pairs))
    training, later = pairs[np.arange(cut)], pairs[np.arange(cut, len(pairs))]
    unseen = np.flatnonzero(~np.isin(_undirected(later, len(item_ids)), _undirected(training, len(item_ids))))
    if len(unseen) > MAX_VALIDATION:
        unseen = unseen[np.linspace(0, len(unseen) - 1, MAX_VALIDATION).astype(np.int64)]
    return PairSource("events", training, later[unseen], unknown=unknown)


def _events_before(
    events: Table, item_ids: Sequence[str], event_types: Sequence[str], holdout: Table | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Unknown]:
    """User code, item row and time of the events that may be learnt from."""
    chosen = _of_types(events, event_types)
    table = events.read(["user_id", "item_id", "timestamp"])
    users, names = codes_of(table.column("user_id"))
    times = table.column("timestamp").to_numpy()
    rows = rows_of(table.column("item_id"), pa.array(item_ids, pa.string()))
    keep = chosen & (rows >= 0)
    if holdout is not None:
        keep &= times < HeldOut(holdout).limits(names)[users]
    return users[keep], rows[keep], times[keep], Unknown.among(table.column("item_id"), rows)


def _of_types(table: Table, event_types: Sequence[str]) -> np.ndarray:
    """Per row whether its event is one of these; every row if there are none to choose."""
    if not event_types:
        return np.ones(table.count_rows(), bool)
    if "event" not in table.column_names:
        raise UserError(f"{table.path}: has no column `event`, so --event-types cannot choose among them")
    column = table.read(["event"]).column("event")
    kinds = pc.unique(column).to_pylist()
    for wanted in event_types:
        if wanted not in kinds:
            there = ", ".join(sorted(kind for kind in kinds if kind)[:10])
            raise UserError(f"{table.path}: no event is called {wanted!r}; there are: {there}")
    return pc.is_in(column, pa.array(event_types, pa.string())).to_numpy()


def _before_holdout(searches: Table, times: pa.ChunkedArray, holdout: Table) -> np.ndarray:
    """Which dated searches are earlier than their user's held-out time; undated ones are kept."""
    nobody = pa.chunked_array([pa.nulls(len(times), pa.string())])
    named = "user_id" in searches.column_names
    limit = HeldOut(holdout).limits(searches.read(["user_id"]).column("user_id") if named else nobody)
    return pc.is_null(times).to_numpy() | (pc.fill_null(times, 0).to_numpy() < limit)


def _undirected(pairs: Pairs, items: int) -> np.ndarray:
    low, high = np.minimum(pairs.anchor, pairs.positive), np.maximum(pairs.anchor, pairs.positive)
    return low * items + high
