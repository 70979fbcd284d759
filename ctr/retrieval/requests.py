"""Requests for candidates: a user at a moment, what he had done until then, and what he took.

Rows of one user at one time are one request with several positives: their histories are the same.

Legend: R rows, Q requests, P (request, positive) pairs, C items by their code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr.data.coded_rows import CodedRows
from ctr.data.history import EventStore, gather_ranges
from ctr.data.impressions import Impressions, RowIndexer
from ctr.data.ragged import Ragged
from ctr.retrieval.catalogue import kept_values
from ctr.retrieval.log import taken

_ALL = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Requests:
    """Requests, in positions of the catalogue (-1 = not a candidate).

    Attributes:
        rows: one row per request, as the user tower reads it.
        history: the last behaviours of each, oldest first, those on candidates.
        masked: what is left out of each request's candidates, sorted, each once.
        query_P, item_P: the positives.
        code_P: item codes of the positives.
        positives_Q: how many each has, at least 1.
    """

    rows: Impressions
    history: Ragged
    masked: Ragged
    query_P: NDArray[np.int64]
    item_P: NDArray[np.int64]
    code_P: NDArray[np.int64]
    positives_Q: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


def make_requests(
    rows: CodedRows, indexer: RowIndexer, position_C: NDArray[np.int64], mask: bool, most: int | None = None
) -> Requests:
    """Group rows into requests.

    Args:
        rows: targets with their context; of rows at one user's one time, the first one's context counts.
        indexer: looks up histories.
        position_C: see `ctr.retrieval.catalogue.Catalogue`.
        mask: whether what a user had is left out of his candidates.
        most: sample so many requests; None: all.
    """
    order = np.lexsort((rows.item_R, rows.time_R, rows.user_R))
    user, time = rows.user_R[order], rows.time_R[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    query_P, code_P = np.cumsum(begins) - 1, rows.item_R[order].astype(np.int64)
    # The stable order of a request's rows is by item; its context is that of its first row in the table.
    first_Q = np.minimum.reduceat(order, np.flatnonzero(begins)) if len(order) else order
    if most is not None and len(first_Q) > most:
        kept = np.sort(np.random.default_rng(0).choice(len(first_Q), most, replace=False))
        new_number = np.full(len(first_Q), -1)
        new_number[kept] = np.arange(most)
        chosen_P = new_number[query_P] >= 0
        query_P, code_P, first_Q = new_number[query_P][chosen_P], code_P[chosen_P], first_Q[kept]
    impressions = indexer(taken(rows, first_Q))
    pairs = np.unique(np.stack([query_P, code_P]), axis=1)
    return Requests(
        rows=impressions,
        history=candidate_history(impressions, position_C),
        masked=had_before(impressions.group_R, impressions.time_R, indexer.store, position_C, mask),
        query_P=pairs[0],
        item_P=position_C[pairs[1]],
        code_P=pairs[1],
        positives_Q=np.bincount(pairs[0], minlength=len(first_Q)),
    )


def candidate_history(rows: Impressions, position_C: NDArray[np.int64]) -> Ragged:
    """The behaviours of each row that are on candidates, as positions, oldest first."""
    return _positions(rows.store, rows.start_R, rows.end_R, position_C)


def had_before(
    user_Q: NDArray[np.integer],
    time_Q: NDArray[np.int64],
    store: EventStore,
    position_C: NDArray[np.int64],
    mask: bool,
) -> Ragged:
    """All candidates that each user had before a time, sorted, each once; nothing without `mask`."""
    if not mask:
        return Ragged(np.zeros(0, np.int64), np.zeros(len(user_Q) + 1, np.int64))
    start_Q, end_Q = store.lookup(user_Q, time_Q, _ALL)
    had = _positions(store, start_Q, end_Q, position_C)
    query_N = np.repeat(np.arange(len(user_Q)), np.diff(had.offsets_R1))
    # Sorted and held against the neighbour: numpy's own `unique` hashes, many times slower here.
    pairs = np.sort(query_N * (int(position_C.max(initial=0)) + 1) + had.values)
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])] if len(pairs) else pairs
    query, item = np.divmod(pairs, int(position_C.max(initial=0)) + 1)
    return Ragged.of_lengths(item, np.bincount(query, minlength=len(user_Q)))


def _positions(
    store: EventStore,
    start_Q: NDArray[np.integer],
    end_Q: NDArray[np.integer],
    position_C: NDArray[np.int64],
) -> Ragged:
    event_N, offset_Q1 = gather_ranges(start_Q.astype(np.int64), end_Q.astype(np.int64))
    position_N = position_C[store.item_E[event_N]]
    return kept_values(Ragged(position_N, offset_Q1), position_N >= 0)
