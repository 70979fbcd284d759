"""Places of candidate lists kept for new items, which training never saw and a later stage cannot learn of
unless they are shown.

Legend: Q users, D width, K places of a list, N items of the catalogue, M new items that are looked at.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ctr.data.ragged import Ragged
from ctr.retrieval.index.exact_scores import exact_scores
from ctr.retrieval.part_search import part_candidates
from moonrec.embedding_set import EmbeddingSet


def place_count(share: float, k: int) -> int:
    """The least number of places that is at least a share of `k`."""
    # .07 of 100 is 7.000000000000001 in floating point.
    return math.ceil(round(share * k, 6))


def with_new_items(
    score_QK: NDArray[np.float32],
    item_QK: NDArray[np.int64],
    user_QD: NDArray[np.float32],
    vectors: EmbeddingSet,
    is_new_N: NDArray[np.bool_],
    masked: Ragged,
    places: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Lists with at least so many new items, where there are so many: the best ones, in the last places.

    The other items of a list keep their order, and the last of them give way.

    Args:
        score_QK, item_QK: lists, best first, -inf and -1 where they have ended.
        user_QD: the users' vectors.
        vectors: those of the catalogue.
        is_new_N: which items are new.
        masked: what each user is not to get, sorted, each once.
        places: how many, at most K.

    Returns:
        Scores and items of the lists, in the same form.
    """
    new_QM = part_candidates(user_QD, vectors, is_new_N, masked, places)
    rows_Q1 = np.arange(len(item_QK))[:, None]
    listed = (rows_Q1 * len(is_new_N) + item_QK)[item_QK >= 0]
    fresh_QM = (new_QM >= 0) & ~np.isin(rows_Q1 * len(is_new_N) + new_QM, listed)
    is_new_QK = (item_QK >= 0) & is_new_N[item_QK]
    missing_Q1 = places - is_new_QK.sum(axis=1, keepdims=True)
    fresh_QM &= fresh_QM.cumsum(axis=1) <= missing_Q1

    # What is free, or gives way, is filled from the front of the fresh ones.
    gives_way_QK = ~is_new_QK
    from_behind_QK = gives_way_QK[:, ::-1].cumsum(axis=1)[:, ::-1]
    gives_way_QK &= from_behind_QK <= fresh_QM.sum(axis=1, keepdims=True)
    every_item = np.concatenate([np.where(gives_way_QK, -1, item_QK), np.where(fresh_QM, new_QM, -1)], axis=1)
    fresh_score = exact_scores(user_QD, vectors, np.where(fresh_QM, new_QM, -1))
    every_score = np.concatenate([np.where(gives_way_QK, -np.inf, score_QK), fresh_score], axis=1)
    order = np.argsort(every_item < 0, axis=1, kind="stable")[:, : item_QK.shape[1]]
    return (
        np.take_along_axis(every_score, order, axis=1).astype(np.float32),
        np.take_along_axis(every_item, order, axis=1),
    )
