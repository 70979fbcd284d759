"""One compiled pass over a tile of scores: who is among the best, and how many come before a row.

Most scores are not above the worst of their query's best, which is told for many of them at once. Tiles come
in the order of their rows: a later row of equal score does not displace an earlier one.

Shapes: q queries and m rows of a tile, K best of a query, P (query, positive) pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moonrec.compiled import compiled

# Scores that are compared at once before they are one by one. Larger groups have a better one in them more
# often. Ours.
_GROUP_ROWS = 64
# Fewer queries or pairs than these are done before another thread has woken. Ours.
_FEWEST_PER_THREAD = 64


def new_threads() -> ThreadPoolExecutor:
    """As many threads as torch uses; none is started before it is needed."""
    return ThreadPoolExecutor(torch.get_num_threads())


def in_threads(
    threads: ThreadPoolExecutor, loop: Callable[..., None], parts: tuple[NDArray[Any], ...], *rest: Any
) -> None:
    """Call `loop(*parts, *rest)` with `parts`, which are equally long, cut into one piece per thread."""
    count = len(parts[0])
    pieces = max(1, min(torch.get_num_threads(), count // _FEWEST_PER_THREAD))
    cuts = [count * piece // pieces for piece in range(pieces + 1)]
    others = [
        threads.submit(loop, *(part[start:end] for part in parts), *rest) for start, end in pairwise(cuts[1:])
    ]
    loop(*(part[: cuts[1]] for part in parts), *rest)
    for other in others:
        other.result()


@compiled
def keep_best(
    scores_qm: NDArray[np.float32],
    best_qK: NDArray[np.float32],
    row_qK: NDArray[np.int64],
    first_row: int,
) -> None:
    """Take up the rows of a tile, of which `first_row` is the first, among the best of each query.

    `best_qK` and `row_qK` are lists, best last; free places have the score -inf, which no row takes up.
    """
    for q in range(len(scores_qm)):
        best_K, row_K = best_qK[q], row_qK[q]
        for start in range(0, scores_qm.shape[1], _GROUP_ROWS):
            scores_m = scores_qm[q, start : start + _GROUP_ROWS]
            if _count_above(scores_m, best_K[0]):
                for i in range(len(scores_m)):
                    if scores_m[i] > best_K[0]:
                        place = len(best_K) - 1 - _count_reaching(best_K, scores_m[i])
                        _insert(best_K, place, scores_m[i])
                        _insert(row_K, place, first_row + start + i)


@compiled
def count_better(
    query_P: NDArray[np.int64],
    row_P: NDArray[np.int64],
    own_P: NDArray[np.float32],
    better_P: NDArray[np.int64],
    found_P: NDArray[np.float32],
    scores_qm: NDArray[np.float32],
    first_query: int,
    first_row: int,
) -> None:
    """Add to `better_P` how many rows of the tile come before each positive if its score is `own_P`.

    `found_P` gets the scores of the positives in the tile.
    """
    rows = scores_qm.shape[1]
    for p in range(len(query_P)):
        scores_m = scores_qm[query_P[p] - first_query]
        # Rows before the positive win ties.
        split = min(max(row_P[p] - first_row, 0), rows)
        better_P[p] += _count_reaching(scores_m[:split], own_P[p]) + _count_above(scores_m[split:], own_P[p])
        if first_row <= row_P[p] < first_row + rows:
            found_P[p] = scores_m[split]


@compiled
def _insert(value_K: Any, place: Any, value: Any) -> None:
    """Put a value at its place, and the first one out."""
    for k in range(np.uint64(place)):
        value_K[k] = value_K[k + np.uint64(1)]
    value_K[place] = value


# In both: an index that cannot be negative and a counter as wide as the scores let them be compared several
# at a time.
@compiled
def _count_above(scores_m: Any, bar: Any) -> Any:
    count = np.int32(0)
    for i in range(np.uint64(len(scores_m))):
        count = np.int32(count + np.int32(scores_m[i] > bar))
    return count


@compiled
def _count_reaching(scores_m: Any, bar: Any) -> Any:
    count = np.int32(0)
    for i in range(np.uint64(len(scores_m))):
        count = np.int32(count + np.int32(scores_m[i] >= bar))
    return count
