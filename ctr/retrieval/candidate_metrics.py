"""How good lists of candidates are: recall, NDCG and reciprocal rank, and how much of the catalogue they use.

The numbers of single requests are those of `moonrec.query_metrics`: recall@K is |top K ∩ positives| over
min(K, positives), so that a perfect list always reaches 1.

Shapes: Q requests, P (request, positive) pairs, K candidates of a request, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moonrec.query_metrics import query_metrics

KS = (10, 50, 100, 500)
COVERAGE_KS = (10, 100)
# Pairs whose lists are compared at once: 4,096 lists of 500 take 16 MB. Ours.
_PAIRS = 4_096


def ranks_of(
    item_QK: NDArray[np.integer[Any]], query_P: NDArray[np.integer[Any]], item_P: NDArray[np.integer[Any]]
) -> NDArray[np.int64]:
    """The 1-based place of every positive in its request's list, int64 (P); 0 where it is not in the list.

    Args:
        item_QK: (Q, K) catalogue positions, best first, -1 where a list has ended.
        query_P: (P) the request of each positive.
        item_P: (P) its catalogue position; -1 for an item that the catalogue lacks, which no list can hold.
    """
    rank_P = np.zeros(len(query_P), np.int64)
    if not item_QK.shape[1]:
        return rank_P
    for first in range(0, len(query_P), _PAIRS):
        part = slice(first, first + _PAIRS)
        same_pK = item_QK[query_P[part]] == item_P[part, None]
        found_p = same_pK.any(axis=1) & (item_P[part] >= 0)
        rank_P[part] = np.where(found_p, same_pK.argmax(axis=1) + 1, 0)
    return rank_P


def retrieval_metrics(
    item_QK: NDArray[np.integer[Any]],
    query_P: NDArray[np.integer[Any]],
    item_P: NDArray[np.integer[Any]],
    positives_Q: NDArray[np.integer[Any]],
    catalogue_size: int,
    ks: Sequence[int] = KS,
) -> tuple[dict[str, float | int | None], dict[str, NDArray[np.float64]]]:
    """Judge one list of candidates per request.

    Args:
        item_QK: (Q, K) catalogue positions, best first, -1 where a list has ended. A K below a cut-off leaves
            the recall at that cut-off a lower bound, unless the whole catalogue was listed.
        query_P, item_P: (P) the pairs, each once; an item of -1 is a miss.
        positives_Q: (Q) positives of each request, at least 1; it may exceed the request's pairs by positives
            that nobody can find.
        catalogue_size: N.
        ks: the cut-offs of recall.

    Returns:
        The numbers of `metrics.json` (`recall@K`, `ndcg@10`, `mrr`; `coverage@K`, the share of the catalogue
        that stands among the first K of anybody; `gini@100`, how unequally the first 100 places are dealt
        out over the catalogue, 0 for evenly; `requests`), None for means over no request; and the first
        three per request, float64 (Q).

    Raises:
        ValueError: a list for each request is missing, or a request has fewer positives than pairs, or none.
    """
    positives_Q = np.asarray(positives_Q, np.int64)
    if len(item_QK) != len(positives_Q):
        raise ValueError(f"{len(item_QK)} lists of candidates for {len(positives_Q)} requests")
    if (np.maximum(np.bincount(query_P, minlength=len(positives_Q)), 1) > positives_Q).any():
        raise ValueError("a request has no positive, or more pairs than positives")
    rank_P = ranks_of(item_QK, query_P, item_P)
    found_P = rank_P > 0
    values = query_metrics(rank_P[found_P], query_P[found_P], positives_Q, ks)
    per_request = {name: value_Q for name, value_Q in values.items() if not name.startswith("hit@")}
    metrics: dict[str, float | int | None] = {
        name: float(value_Q.mean()) if len(value_Q) else None for name, value_Q in per_request.items()
    }
    for k in COVERAGE_KS:
        shown_N = _shown(item_QK[:, :k], catalogue_size)
        metrics[f"coverage@{k}"] = float(np.count_nonzero(shown_N) / catalogue_size)
    metrics[f"gini@{COVERAGE_KS[-1]}"] = _gini(shown_N)
    return metrics | {"requests": len(positives_Q)}, per_request


def _shown(item_QK: NDArray[np.integer[Any]], catalogue_size: int) -> NDArray[np.int64]:
    """How often each item stands in a list, (N)."""
    return np.bincount(item_QK[item_QK >= 0], minlength=catalogue_size)


def _gini(count_N: NDArray[np.int64]) -> float | None:
    """Gini's coefficient of counts, in [0, 1 - 1/N]; None if all are zero."""
    total, items = int(count_N.sum()), len(count_N)
    place_N = np.arange(1, items + 1, dtype=np.float64)
    return float((2 * place_N - items - 1) @ np.sort(count_N) / (items * total)) if total else None
