"""Exact scores of chosen (user, item) pairs, straight from the memory-mapped float16 vectors.

Legend: Q users, D width, C candidates of a user, M items of a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.search.nearest_scan import prefetch_row
from moonrec.compiled import compiled
from moonrec.embedding_set import EmbeddingSet
from moonrec.score_scan import in_threads, new_threads

# Candidates ahead of the one at work whose vectors are asked for. Ours.
_AHEAD = 8


def exact_scores(
    user_QD: NDArray[np.float32], vectors: EmbeddingSet, item_QC: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Scores (Q, C) of the entries `item_QC` of the set; -inf where the entry is -1."""
    score_QC = np.full(item_QC.shape, -np.inf, dtype=np.float32)
    first_item = 0
    with new_threads() as threads:
        for block_MD in vectors.blocks():
            in_threads(threads, _score, (user_QD, item_QC, score_QC), block_MD.view(np.uint16), first_item)
            first_item += len(block_MD)
    return score_QC


def _score_block(
    user_QD: NDArray[np.float32],
    item_QC: NDArray[np.int64],
    score_QC: NDArray[np.float32],
    half_MD: NDArray[np.uint16],
    first_item: int,
) -> None:
    """Fill in the scores of the candidates that lie in this block, whose float16 are given as their bits."""
    candidates = item_QC.shape[1]
    here_C = np.empty(candidates, np.int64)
    for q in range(len(item_QC)):
        count = np.uint64(0)
        for c in range(np.uint64(candidates)):
            row = item_QC[q, c] - first_item
            here_C[count] = c
            count += np.uint64((row >= 0) & (row < len(half_MD)))
        for i in range(np.int64(count)):
            if i + _AHEAD < np.int64(count):
                prefetch_row(half_MD, item_QC[q, here_C[i + _AHEAD]] - first_item)
            score_QC[q, here_C[i]] = _product(user_QD[q], half_MD[item_QC[q, here_C[i]] - first_item])


def _product_of(user_D: Any, half_D: Any) -> Any:
    total = np.float32(0)
    for d in range(len(user_D)):
        sign = (np.uint32(half_D[d]) & np.uint32(0x8000)) << np.uint32(16)
        rest = (np.uint32(half_D[d]) & np.uint32(0x7FFF)) << np.uint32(13)
        # The exponents of float16 and float32 are counted from 15 and from 127.
        total += user_D[d] * (np.uint32(sign | rest).view(np.float32) * np.float32(2.0**112))
    return total


_product = compiled(_product_of, fast_math={"reassoc", "contract"})
_score = compiled(_score_block)
