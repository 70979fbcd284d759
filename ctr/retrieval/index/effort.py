"""The least search effort that reaches the wanted recall, found on users that the recall is not measured on.

Legend: S users, D width, K results.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.retrieval.index.faiss_index import FaissIndex
from ctr.retrieval.index.index_file import Effort
from moonrec.embedding_set import EmbeddingSet

# Depths of HNSW in multiples of k, exact scores of IVF-PQ per result.
_HNSW_DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
_FACTORS = (2, 4, 8, 16)
# An exact score is taken to cost as much as so many codes that are compared. Ours, from one rough timing.
_CODES_PER_EXACT = 3


def recall(found_SK: NDArray[np.int64], exact_SK: NDArray[np.int64]) -> float:
    """Share of the exact results that were found, in [0, 1]."""
    rows_S = np.arange(len(exact_SK))[:, None]
    span = int(max(found_SK.max(initial=-1), exact_SK.max(initial=-1))) + 2
    wanted = (rows_S * span + exact_SK)[exact_SK >= 0]
    hits = np.isin(wanted, (rows_S * span + found_SK)[found_SK >= 0])
    return float(hits.mean()) if len(wanted) else 1.0


def least_effort(
    faiss: Any,
    kind: str,
    index: Any,
    vectors: EmbeddingSet,
    user_SD: NDArray[np.float32],
    exact_SK: NDArray[np.int64],
    wanted: float,
) -> Effort:
    """The cheapest effort whose recall on these users is `wanted`; if none reaches it, that of the best."""
    best, best_recall = None, -1.0
    for effort in _efforts(kind, index, len(vectors), exact_SK.shape[1]):
        found = FaissIndex(faiss, kind, index, vectors, effort).search(user_SD, exact_SK.shape[1])[1]
        reached = recall(found, exact_SK)
        if reached > best_recall:
            best, best_recall = effort, reached
        if reached >= wanted:
            break
    assert best is not None
    return best


def _efforts(kind: str, index: Any, items: int, k: int) -> list[Effort]:
    """All efforts there are to choose from, the cheapest first."""
    if kind == "hnsw":
        depths = sorted({min(items, round(k * depth)) for depth in _HNSW_DEPTHS})
        return [Effort(k, depth) for depth in depths]
    powers = [1 << power for power in range(index.nlist.bit_length())]
    lists = sorted({*powers, index.nlist})
    choices = [Effort(k, depth, factor) for depth in lists for factor in _FACTORS]
    per_list = items / index.nlist
    return sorted(choices, key=lambda one: one.depth * per_list + _CODES_PER_EXACT * one.factor * k)
