"""Rows that are left out of the rankings of single queries: one per query, or any number.

Legend: Q queries, E (query, row) pairs that are left out, P pairs that are asked for; a tile has q queries
and m rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Excluded = NDArray[np.integer[Any]] | tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]
"""One 0-based row per query (Q), -1 for none; or `(row_E, offset_Q1)`, where query `q` leaves out the rows
`row_E[offset_Q1[q]:offset_Q1[q + 1]]`. Rows that the catalogue does not have change nothing."""


def part_of(excluded: Excluded | None, queries: slice) -> Excluded | None:
    """What the queries in `queries`, a slice with a start and a stop, leave out."""
    if excluded is None:
        return None
    if not isinstance(excluded, tuple):
        return excluded[queries]
    row_E, offset_Q1 = excluded
    offset_q1 = offset_Q1[queries.start : queries.stop + 1]
    return row_E[offset_q1[0] : offset_q1[-1]], offset_q1 - offset_q1[0]


def excluded_pairs(excluded: Excluded | None, queries: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Query and row of every pair that is left out, int64 (E) each, in the order given.

    Raises:
        ValueError: the shapes or offsets are not those of so many queries.
    """
    if excluded is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if not isinstance(excluded, tuple):
        if len(excluded) != queries:
            raise ValueError(f"{len(excluded)} excluded rows for {queries} queries")
        row_Q = np.asarray(excluded, dtype=np.int64)
        (query_E,) = np.nonzero(row_Q >= 0)
        return query_E, row_Q[query_E]
    row_E, offset_Q1 = (np.asarray(part, dtype=np.int64) for part in excluded)
    length_Q = np.diff(offset_Q1)
    fits = len(offset_Q1) == queries + 1 and offset_Q1[0] == 0 and offset_Q1[-1] == len(row_E)
    if not fits or (length_Q < 0).any():
        raise ValueError(
            f"excluded rows of shape {row_E.shape} with {len(offset_Q1)} offsets for {queries} queries, "
            "expected one offset more than queries, from 0 to the number of rows"
        )
    query_E = np.repeat(np.arange(queries), length_Q)
    there_E = row_E >= 0
    return (query_E, row_E) if there_E.all() else (query_E[there_E], row_E[there_E])


class ExcludedRows:
    """What is left out, ordered so that each tile of scores finds its own at once.

    Args:
        excluded: the rows; None for none.
        queries: how many queries there are.
        query_rows: how many queries a tile has.

    Raises:
        ValueError: the shapes or offsets are not those of so many queries.
    """

    def __init__(self, excluded: Excluded | None, queries: int, query_rows: int) -> None:
        query_E, row_E = excluded_pairs(excluded, queries)
        # By tile of queries, then by row: one number per pair sorts several times faster than `lexsort`.
        self._span = int(row_E.max(initial=-1)) + 1
        order_E = np.argsort(query_E // query_rows * self._span + row_E, kind="stable")
        self._query_E, self._row_E = query_E[order_E], row_E[order_E]
        first_queries = np.arange(0, queries + query_rows, query_rows)
        self._starts = np.searchsorted(self._query_E // query_rows, first_queries // query_rows)
        self._query_rows = query_rows

    def leave_out(self, scores_qm: NDArray[np.float32], first_query: int, first_row: int) -> None:
        """Score -inf what is left out of a tile, whose first query is a multiple of `query_rows`."""
        number = first_query // self._query_rows
        start, end = self._starts[number], self._starts[number + 1]
        if start == end:
            return
        ends = np.searchsorted(self._row_E[start:end], (first_row, first_row + scores_qm.shape[1]))
        here = slice(start + ends[0], start + ends[1])
        scores_qm[self._query_E[here] - first_query, self._row_E[here] - first_row] = -np.inf

    def contains(self, query_P: NDArray[np.int64], row_P: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each (query, row) pair is left out, (P)."""
        keys_E = self._query_E * self._span + self._row_E
        inside_P = (row_P >= 0) & (row_P < self._span)
        return inside_P & np.isin(query_P * self._span + row_P, keys_E)
