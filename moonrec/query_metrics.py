"""Retrieval metrics query by query: what averages hide, intervals and paired tests need.

Shapes: P (query, positive) pairs, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NDCG_K = 10


def query_metrics(
    ranks_P: NDArray[np.integer[Any]],
    query_of_P: NDArray[np.integer[Any]],
    positives_per_query_Q: NDArray[np.integer[Any]],
    ks: Sequence[int] = (1, 5, 10, 50),
) -> dict[str, NDArray[np.float64]]:
    """The values (Q) whose means `moonrec.metrics.ranking_metrics` gives, by its names.

    Args:
        ranks_P: (P) 1-based rank of each positive.
        query_of_P: (P) 0-based query of each positive.
        positives_per_query_Q: (Q) the number of positives, those too that the catalogue lacks; at least 1.
        ks: the cut-offs K.
    """
    positives_Q = np.asarray(positives_per_query_Q, np.int64)
    count = len(positives_Q)
    found = {k: np.bincount(query_of_P[ranks_P <= k], minlength=count) for k in ks}
    values = {f"hit@{k}": (found_Q > 0).astype(np.float64) for k, found_Q in found.items()}
    values |= {f"recall@{k}": found_Q / np.minimum(k, positives_Q) for k, found_Q in found.items()}

    reciprocal_Q = np.zeros(count)
    np.maximum.at(reciprocal_Q, query_of_P, 1.0 / ranks_P)
    gains_P = np.where(ranks_P <= _NDCG_K, 1.0 / np.log2(ranks_P + 1), 0.0)
    dcg_Q = np.bincount(query_of_P, weights=gains_P, minlength=count)
    ideal = np.cumsum(1.0 / np.log2(np.arange(_NDCG_K) + 2))
    ndcg_Q = dcg_Q / ideal[np.minimum(_NDCG_K, positives_Q) - 1]
    return values | {"mrr": reciprocal_Q, f"ndcg@{_NDCG_K}": ndcg_Q}
