"""Compiled passes over tiles of scores in threads: how many rows come before a given one.

Shapes: q queries and m rows of a tile, P (query, positive) pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moonrec.compiled import compiled

# Fewer queries or pairs than these are done before another thread has woken. Ours.
_FEWEST_PER_THREAD = 64


def new_threads() -> ThreadPoolExecutor:
    """As many threads as torch uses; none is started before it is needed."""
    return ThreadPoolExecutor(torch.get_num_threads())


@contextmanager
def one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch uses, in each of which torch multiplies by itself.

    Torch's number of threads is one for the whole process while the block runs.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # A new thread does not know of the number: it would start as many of its own, which wait by spinning.
        with ThreadPoolExecutor(before, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            yield threads
    finally:
        torch.set_num_threads(before)


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
