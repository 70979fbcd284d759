"""Impressions ready to be batched: every row has its user's row, its item's code, its features, its history.

Two row spaces hang on the item codes: the rows of the trained table (vocabulary: training rows only) and the
rows of the frozen vectors (everything that an embedding set covers). With queries it is the same.

Legend: E events, R impressions, C items that occur, Q queries that occur (+ 1), U users that occur, F numeric
columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.data.coded_rows import CodedRows, IdSpaces
from ctr.data.features import internal_name
from ctr.data.history import EventStore
from ctr.data.ragged import Ragged
from ctr.data.vocabulary import Vocabulary
from ctr.search.nearest_behaviours import NearestBehaviours
from moonrec.ids import rows_of

_COVERAGE_BLOCK = 1 << 18


@dataclass(frozen=True)
class Impressions:
    """Rows ready to be batched. Row `r` of the table it came from is row `r` here.

    Arrays may be read-only memory maps, of any integer type that holds their values.

    Attributes:
        store: the events that histories point into.
        item_row: (C,) row of each item in the trained item table, 0 = unknown.
        frozen_row: (C,) row of each item in the frozen vectors, 0 = not covered by any set.
        user_R: row in the trained user table, 0 = unknown.
        item_R: item code of the target.
        start_R, end_R: the history, as a range of events.
        label_R: 0 or 1, float32.
        group_R: a number per distinct user of the table, for metrics per user.
        time_R: microseconds since 1970 UTC.
        query_row: (Q,) row of each query in the trained query table, 0 = unknown, position 0 = no query; None
            in a model without queries.
        query_frozen_row: (Q,) row of each query in the frozen query vectors, 0 = none; None in a model
            without query vectors.
        query_R: query code of the impression, 0 = no query; None where impressions have no queries.
        categories: per categorical column, by its `ctr.data.features.internal_name`, the rows of its
            vocabulary, 0 = unknown or null. A column that is no list has one value in each row.
        numeric_RF: (R, 2 · F) float32: of each numeric column its place in [-1, 1] and 1.0 where it is
            missing; None without such columns.
        search: picks the behaviours that a model sees out of a long history; None: it sees all of them.
    """

    store: EventStore
    item_row: NDArray[np.int64]
    frozen_row: NDArray[np.int64]
    user_R: NDArray[np.integer]
    item_R: NDArray[np.integer]
    start_R: NDArray[np.integer]
    end_R: NDArray[np.integer]
    label_R: NDArray[np.float32]
    group_R: NDArray[np.integer]
    time_R: NDArray[np.int64]
    query_row: NDArray[np.int64] | None = None
    query_frozen_row: NDArray[np.int64] | None = None
    query_R: NDArray[np.integer] | None = None
    categories: Mapping[str, Ragged] = field(default_factory=dict)
    numeric_RF: NDArray[np.float32] | None = None
    search: NearestBehaviours | None = None

    def __len__(self) -> int:
        return len(self.item_R)

    def at(self, rows_B: NDArray[np.integer]) -> Impressions:
        """Some of the rows, over the same events."""
        columns = {name: value for name, value in vars(self).items() if name.endswith(("_R", "_RF"))}
        taken = {name: column[rows_B] for name, column in columns.items() if column is not None}
        categories = {name: column.take(rows_B) for name, column in self.categories.items()}
        return replace(self, categories=categories, **taken)


@dataclass(frozen=True)
class RowSpaces:
    """Where codes stand in the trained tables and in the frozen vectors.

    Attributes:
        user_row: (U + 1,) the last entry, 0, is that of an unknown user (code -1).
        item_row, frozen_row, query_row, query_frozen_row: see `Impressions`.
        category_row: per categorical column (values + 1,), the last entry, 0, is that of an unknown value.
    """

    user_row: NDArray[np.int64]
    item_row: NDArray[np.int64]
    frozen_row: NDArray[np.int64]
    query_row: NDArray[np.int64] | None
    query_frozen_row: NDArray[np.int64] | None
    category_row: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(
        cls,
        spaces: IdSpaces,
        vocabulary: Vocabulary,
        frozen_row: NDArray[np.int64] | None = None,
        query_frozen_row: NDArray[np.int64] | None = None,
    ) -> RowSpaces:
        """Look up everything that has a code; None for vectors that the model does not read."""
        query_row = None
        if vocabulary.queries is not None:
            query_row = np.append(0, rows_of(spaces.queries.ids, vocabulary.queries) + 1)
        return cls(
            user_row=_with_unknown(rows_of(spaces.users.ids, vocabulary.users)),
            item_row=rows_of(spaces.items.ids, vocabulary.items) + 1,
            frozen_row=np.zeros(len(spaces.items), np.int64) if frozen_row is None else frozen_row,
            query_row=query_row,
            query_frozen_row=query_frozen_row,
            category_row={
                name: _with_unknown(rows_of(spaces.categories[name].ids, values))
                for name, values in vocabulary.categories.items()
            },
        )


@dataclass(frozen=True)
class RowIndexer:
    """Turns coded rows into impressions.

    Attributes:
        store: the events.
        rows: where codes stand.
        vocabulary: knows the features.
        history: the longest history.
    """

    store: EventStore
    rows: RowSpaces
    vocabulary: Vocabulary
    history: int

    def __call__(self, coded: CodedRows) -> Impressions:
        """Index rows whose features are complete."""
        start_R, end_R = self.store.lookup(coded.user_R, coded.time_R, self.history)
        rows = self.rows
        return Impressions(
            store=self.store,
            item_row=rows.item_row,
            frozen_row=rows.frozen_row,
            user_R=_rows_at(rows.user_row, coded.user_R),
            item_R=coded.item_R,
            start_R=start_R,
            end_R=end_R,
            label_R=coded.label_R,
            group_R=coded.user_R,
            time_R=coded.time_R,
            query_row=rows.query_row,
            query_frozen_row=rows.query_frozen_row,
            query_R=coded.query_R,
            categories={
                internal_name(name): self._category(name, coded) for name in self.vocabulary.categories
            },
            numeric_RF=self._numeric(coded),
        )

    def _category(self, name: str, coded: CodedRows) -> Ragged:
        codes = coded.categories[name]
        return Ragged(_rows_at(self.rows.category_row[name], codes.values), codes.offsets)

    def _numeric(self, coded: CodedRows) -> NDArray[np.float32] | None:
        numerics = self.vocabulary.numerics
        if not numerics:
            return None
        return np.concatenate([numerics[name](coded.numbers[name]) for name in numerics], axis=1)


def _rows_at(row_of_code: NDArray[np.int64], codes: NDArray[np.integer]) -> NDArray[np.int32]:
    """Rows of codes; the code -1 reads the last entry, that of an unknown id."""
    return row_of_code[codes].astype(np.int32)


def coverage(
    impressions: Impressions,
    sets: Mapping[str, FrozenEmbeddings],
    query_sets: Mapping[str, FrozenEmbeddings],
) -> dict[str, Any]:
    """What frozen vectors cover of the rows; a share is None where there is nothing to cover.

    Args:
        impressions: the rows.
        sets, query_sets: the vectors by the names of their sets.

    Returns:
        `target` and `history`: shares of the targets, and of the behaviours in histories, that at least one
        set has a vector for. With several sets also `sets`: the same for each by name. With sets of queries
        also `queries`: by name, shares of the impressions and of the behaviours with a query whose query has
        a vector.
    """
    found: dict[str, Any] = dict(_shares(impressions, impressions.frozen_row > 0))
    if len(sets) > 1:
        found["sets"] = {
            name: _shares(impressions, one.covered.numpy()[impressions.frozen_row])
            for name, one in sets.items()
        }
    if query_sets:
        found["queries"] = {name: _query_shares(impressions, one) for name, one in query_sets.items()}
    return found


def _shares(impressions: Impressions, covered_C: NDArray[np.bool_]) -> dict[str, float | None]:
    covered_E = covered_C[impressions.store.item_E]
    parts = (_count_in_histories(impressions, flag_E) for flag_E in (covered_E, np.ones_like(covered_E)))
    return {
        "target": _share(_count(covered_C, impressions.item_R), len(impressions)),
        "history": _share(*parts),
    }


def _query_shares(impressions: Impressions, queries: FrozenEmbeddings) -> dict[str, float | None]:
    shares: dict[str, float | None] = {"target": None, "history": None}
    if impressions.query_frozen_row is None:
        return shares
    covered_Q = queries.covered.numpy()[impressions.query_frozen_row]
    asked_Q = np.arange(len(covered_Q)) > 0
    query_R, query_E = impressions.query_R, impressions.store.query_E
    if query_R is not None:
        shares["target"] = _share(_count(covered_Q, query_R), _count(asked_Q, query_R))
    if query_E is not None:
        parts = (_count_in_histories(impressions, flag_Q[query_E]) for flag_Q in (covered_Q, asked_Q))
        shares["history"] = _share(*parts)
    return shares


def _count(flag_C: NDArray[np.bool_], code_R: NDArray[np.integer]) -> int:
    """How many rows have a code with a flag."""
    blocks = range(0, len(code_R), _COVERAGE_BLOCK)
    return sum(int(np.count_nonzero(flag_C[code_R[first : first + _COVERAGE_BLOCK]])) for first in blocks)


def _count_in_histories(impressions: Impressions, flag_E: NDArray[np.bool_]) -> int:
    """How many behaviours of all histories together have a flag."""
    before_E1 = np.concatenate([[0], np.cumsum(flag_E)])
    total = 0
    for first in range(0, len(impressions), _COVERAGE_BLOCK):
        block = slice(first, first + _COVERAGE_BLOCK)
        total += int((before_E1[impressions.end_R[block]] - before_E1[impressions.start_R[block]]).sum())
    return total


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _with_unknown(place: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.append(place + 1, 0)
