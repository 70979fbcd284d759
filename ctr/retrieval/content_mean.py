"""The baseline that learns nothing: what looks and reads most like the user's history.

Shapes: Q requests, B requests of a block, N items of the catalogue, D width, K candidates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctr.data.ragged import Ragged
from ctr.retrieval.part_search import part_candidates

# With histories of 50 and width 512, the vectors of a block are 100 MB. Ours.
_REQUESTS = 1_024
_ROWS = 65_536


def content_mean_candidates(
    frozen_ND: NDArray[np.floating[Any]],
    history: Ragged,
    masked: Ragged,
    k: int,
    among_N: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """The `k` items with the highest cosine to the mean of the history's frozen vectors, int64 (Q, K).

    Args:
        frozen_ND: (N, D) frozen vectors of unit length, float16 or float32; a row of zeros is an item
            without a vector, which counts for nothing in a history and is never a candidate.
        history: per request the catalogue positions of its history; every event counts.
        masked: per request the items to leave out, each once, sorted.
        k: candidates wanted; K is `k`, or N if that is smaller.
        among_N: (N) which items may be found; all by default.

    Returns:
        Catalogue positions, best first, equal scores by position; -1 where a list has ended. A request
        without a covered item in its history has none.
    """
    part_N = covered(frozen_ND)
    if among_N is not None:
        part_N &= among_N
    return part_candidates(history_means(frozen_ND, history), frozen_ND, part_N, masked, k)


def covered(frozen_ND: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Which items have a vector (N): those whose row is not all zeros."""
    blocks = [frozen_ND[first : first + _ROWS].any(axis=1) for first in range(0, len(frozen_ND), _ROWS)]
    return np.concatenate([np.zeros(0, bool), *blocks])


def history_means(frozen_ND: NDArray[np.floating[Any]], history: Ragged) -> NDArray[np.float32]:
    """The mean of each history's frozen vectors, up to its length, float32 (Q, D); zeros without any.

    It is the sum, scaled to unit length: the length of a query does not change a ranking.
    """
    query_QD = np.zeros((len(history), frozen_ND.shape[1]), np.float32)
    for first in range(0, len(history), _REQUESTS):
        rows_B = np.arange(first, min(first + _REQUESTS, len(history)))
        part = history.take(rows_B)
        items, place = np.unique(part.values, return_inverse=True)
        query_QD[rows_B] = torch.nn.functional.embedding_bag(
            torch.from_numpy(place),
            torch.from_numpy(frozen_ND[items].astype(np.float32)),
            torch.from_numpy(part.offsets_R1[:-1].astype(np.int64)),
            mode="sum",
        ).numpy()
    length_Q1 = np.linalg.norm(query_QD, axis=1, keepdims=True)
    return np.divide(query_QD, length_Q1, out=query_QD, where=length_Q1 > 0)
