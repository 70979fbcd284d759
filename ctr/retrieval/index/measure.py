"""What an index costs and finds, beside exact search in the same minutes.

Legend: S users, D width, K results.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from numpy.typing import NDArray

from ctr.retrieval.index.effort import recall
from ctr.retrieval.index.item_index import ExactIndex, ItemIndex

# Requests that are made one by one, and rounds in which both searches take turns. Ours.
_SINGLE_REQUESTS, _ROUNDS = 100, 3


def measured(
    index: ItemIndex, user_SD: NDArray[np.float32], exact_SK: NDArray[np.int64]
) -> dict[str, float | int]:
    """Recall, latency and speed of an index on these users.

    Returns:
        `recall` against the exact results, `latency_p50_ms` and `latency_p95_ms` of a request by itself,
        `requests_per_second` of all users in one call, `speed_up` of that call against exact search in turns
        with it (1 for exact search), `measured_users`.
    """
    k = exact_SK.shape[1]
    exact = index if isinstance(index, ExactIndex) else ExactIndex(index.vectors)
    found = index.search(user_SD, k)[1]
    single = [1e3 * _seconds(index, user_1D, k) for user_1D in user_SD[:_SINGLE_REQUESTS, None]]
    rounds = [(_seconds(index, user_SD, k), _seconds(exact, user_SD, k)) for _ in range(_ROUNDS)]
    own, other = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {
        "recall": recall(found, exact_SK),
        "latency_p50_ms": float(np.percentile(single, 50)),
        "latency_p95_ms": float(np.percentile(single, 95)),
        "requests_per_second": len(user_SD) / own,
        "speed_up": 1.0 if index is exact else other / own,
        "measured_users": len(user_SD),
    }


def _seconds(index: ItemIndex, user_SD: NDArray[np.float32], k: int) -> float:
    start = time.perf_counter()
    index.search(user_SD, k)
    return time.perf_counter() - start
