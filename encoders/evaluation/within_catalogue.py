"""Search across modalities within a catalogue: an item's own picture is to find its own words, or reverse.

It needs no searches. Equal pictures are one query and equal words one answer, so that the SKUs of one product
that share both do not stand in each other's way.

Shapes: N items, Q distinct queries, K distinct answers that are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from encoders.evaluation.catalogue import Catalogue, EncodedItems, ShownItems
from encoders.evaluation.tasks import RetrievalTask
from encoders.queries import NoQueries, Queries

# Ours: enough for a standard error of .005; the cost of a query is the whole catalogue.
MOST_QUERIES = 10_000


def own_queries(items: EncodedItems, task: RetrievalTask) -> tuple[Queries, np.ndarray, Catalogue]:
    """The queries of a task that crosses modalities, their vectors (Q, E), and the answers to rank.

    Of more than `MOST_QUERIES` every so-manyth is asked.

    Raises:
        NoQueries: no item has both a picture and words.
    """
    asked, ranked = items.shown[task.query_view], items.shown[task.item_view]
    digests = (items.picture_N, items.words_N) if task.shows_picture else (items.words_N, items.picture_N)
    query_N, answer_N = (_codes(values) for values in digests)
    answer_row_K = _first_of_each(ranked.row_M(), answer_N)
    both_N = np.intersect1d(asked.row_M(), ranked.row_M(), assume_unique=True)
    if not len(both_N):
        raise NoQueries("no item of the catalogue has both a picture and words")
    query_row_Q = _spread(_first_of_each(both_N, query_N))
    place_of_answer = np.full(len(answer_N), -1)
    place_of_answer[answer_N[answer_row_K]] = np.arange(len(answer_row_K))
    place_of_query = np.full(len(query_N), -1)
    place_of_query[query_N[query_row_Q]] = np.arange(len(query_row_Q))
    pairs = np.stack([place_of_query[query_N[both_N]], place_of_answer[answer_N[both_N]]], 1)
    query_P, answer_P = np.unique(pairs[pairs[:, 0] >= 0], axis=0).T
    queries = Queries(
        first_row_Q=query_row_Q,
        own_item_Q=np.full(len(query_row_Q), -1),
        query_P=query_P,
        item_P=answer_P,
        positives_Q=np.bincount(query_P, minlength=len(query_row_Q)),
    )
    vectors_QE = np.concatenate(list(asked.only(query_row_Q))).astype(np.float32)
    return queries, vectors_QE, _answers(items, ranked, answer_row_K)


def _answers(items: EncodedItems, ranked: ShownItems, row_K: np.ndarray) -> Catalogue:
    return Catalogue(items.ids.take(pa.array(row_K)), lambda: ranked.only(row_K))


def _codes(digests: Sequence[bytes]) -> np.ndarray:
    """One number per item (N,), equal for equal digests."""
    return np.asarray(pa.array(digests, pa.binary()).dictionary_encode().indices)


def _first_of_each(rows: np.ndarray, code_N: np.ndarray) -> np.ndarray:
    """Of ascending `rows`, those whose code stands there for the first time; ascending."""
    return rows[np.sort(np.unique(code_N[rows], return_index=True)[1])]


def _spread(rows: np.ndarray) -> np.ndarray:
    if len(rows) <= MOST_QUERIES:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST_QUERIES).astype(np.int64)]
