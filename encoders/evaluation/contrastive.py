"""The contrastive loss of queries against a whole catalogue.

Training sees a loss over the negatives of a batch, whose value depends on their number; against every item of
the catalogue the losses of two encoders can be compared. It is the one metric here that notices how far ahead
a positive is, and not only its rank.

Shapes: P (query, positive) pairs, Q queries, E width of the vectors, M items of a block.
"""

from __future__ import annotations

import numpy as np

from encoders.evaluation.catalogue import Catalogue
from encoders.queries import Queries
from moonrec.embedding_set import EmbeddingSet
from moonrec.nearest import log_partition

# Ours; between the .02 and .07 of the published contrastive encoders.
TEMPERATURE = 0.05
_PAIRS_AT_ONCE = 65_536


def contrastive_loss(queries: Queries, vectors_QE: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """-log softmax of the positives among all items, in nats: the mean over each query's positives (Q).

    NaN for a query none of whose positives is in the catalogue. The query's own picture's item is left out of
    the softmax, as it is of the ranking.
    """
    log_sum_Q = log_partition(vectors_QE, catalogue.vectors, TEMPERATURE, queries.own_item_Q)
    score_P = _positive_scores(queries, vectors_QE, catalogue)
    loss_P = (log_sum_Q[queries.query_P] - score_P / TEMPERATURE).clip(min=0)
    count_Q = np.bincount(queries.query_P, minlength=len(vectors_QE))
    total_Q = np.bincount(queries.query_P, weights=loss_P, minlength=len(vectors_QE))
    return np.where(count_Q > 0, total_Q / count_Q.clip(min=1), np.nan)


def _positive_scores(queries: Queries, vectors_QE: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """The dot product of each query and its positive (P), in one pass over the catalogue."""
    order = np.argsort(queries.item_P, kind="stable")
    query_P, item_P = queries.query_P[order], queries.item_P[order]
    score_P = np.zeros(len(order))
    vectors, first = catalogue.vectors, 0
    for block_ME in vectors.blocks() if isinstance(vectors, EmbeddingSet) else vectors():
        start, stop = np.searchsorted(item_P, (first, first + len(block_ME)))
        for begin in range(start, stop, _PAIRS_AT_ONCE):
            part = slice(begin, min(begin + _PAIRS_AT_ONCE, stop))
            items = block_ME[item_P[part] - first].astype(np.float32)
            score_P[order[part]] = np.einsum("pe,pe->p", vectors_QE[query_P[part]], items)
        first += len(block_ME)
    return score_P
