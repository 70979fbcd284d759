"""Exact search in a part of the catalogue: among the items that have a vector, or among the new ones only.

Shapes: Q requests, N items of the catalogue, M of them in the part, E masked items, D width, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.data.ragged import Ragged
from moonrec.embedding_set import EmbeddingSet
from moonrec.nearest import top_k

_ROWS = 65_536
Vectors = NDArray[np.floating[Any]] | EmbeddingSet


def part_candidates(
    query_QD: NDArray[np.floating[Any]], vectors: Vectors, part_N: NDArray[np.bool_], masked: Ragged, k: int
) -> NDArray[np.int64]:
    """The `k` items of a part of the catalogue with the highest dot products, int64 (Q, K).

    Args:
        query_QD: (Q, D) one vector per request; a request of zeros gets no candidates.
        vectors: the catalogue's vectors, (N, D), as an array or as an embedding set.
        part_N: (N) which items may be found.
        masked: per request the items to leave out, each once, sorted.
        k: candidates wanted; K is `k`, or N if that is smaller.

    Returns:
        Positions in the whole catalogue, best first, equal scores by position; -1 where a list has ended.
    """
    place_M = np.flatnonzero(part_N)
    item_QK = np.full((len(query_QD), min(k, len(part_N))), -1, np.int64)
    (asked_B,) = np.nonzero(np.asarray(query_QD).any(axis=1))
    if not len(place_M) or not len(asked_B):
        return item_QK
    _, row_BK = top_k(
        query_QD[asked_B], lambda: _blocks(vectors, part_N), k, _within(masked.take(asked_B), part_N)
    )
    item_QK[asked_B, : row_BK.shape[1]] = np.where(row_BK >= 0, place_M[row_BK], -1)
    return item_QK


def _within(masked: Ragged, part_N: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Masked items as rows of the part, and where each request's begin; others than its own are dropped."""
    row_N = np.cumsum(part_N, dtype=np.int64) - 1
    inside_E = part_N[masked.values]
    kept_before_E1 = np.concatenate([[0], np.cumsum(inside_E, dtype=np.int64)])
    return row_N[masked.values[inside_E]], kept_before_E1[masked.offsets_R1]


def _blocks(vectors: Vectors, part_N: NDArray[np.bool_]) -> Iterator[NDArray[Any]]:
    """The vectors of the part, block by block."""
    first = 0
    for block_MD in vectors.blocks() if isinstance(vectors, EmbeddingSet) else (vectors,):
        for start in range(0, len(block_MD), _ROWS):
            rows_MD = block_MD[start : start + _ROWS]
            yield rows_MD[part_N[first : first + len(rows_MD)]]
            first += len(rows_MD)
