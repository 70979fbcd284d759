"""Why an item is in a user's list: which of his behaviours look and read most like it.

Legend: Q users, B users of a block, K items of a list, L behaviours of the longest history in a block,
T reasons per item, N behaviours of all users, D width of the frozen vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.data.ragged import Ragged

# Numbers of a block, vectors and cosines together: 64 MB. Ours.
_NUMBERS = 1 << 24


@dataclass(frozen=True)
class Reasons:
    """The most similar behaviours of each item of each list, the most similar one first.

    Attributes:
        behaviour_QKT: 0-based place in the user's history, -1 where there are no more.
        cosine_QKT: between the item and the behaviour's item, float32; -inf likewise.
    """

    behaviour_QKT: NDArray[np.int64]
    cosine_QKT: NDArray[np.float32]


def reasons(
    frozen: FrozenEmbeddings, target_QK: NDArray[np.integer], history: Ragged, top: int = 3
) -> Reasons:
    """Find the behaviours that are most similar to the items of ranked lists, by the frozen vectors.

    They say what speaks for an item, not what a trained model made of it. An item that a user had several
    times counts once, the last time; equal cosines are ordered by recency.

    Args:
        frozen: item vectors of unit length, row 0 = none.
        target_QK: rows of the lists' items in it, (Q, K); 0 = no vector, or no item.
        history: per user the rows of his behaviours, oldest first; 0 = no vector.
        top: T.

    Raises:
        ValueError: not as many histories as lists, or `top` below 1.
    """
    if len(history) != len(target_QK) or top < 1:
        raise ValueError(
            f"{len(target_QK)} lists, {len(history)} histories, top {top}; expected a history each"
        )
    behaviour_QKT = np.full((*target_QK.shape, top), -1, np.int64)
    cosine_QKT = np.full((*target_QK.shape, top), -np.inf, np.float32)
    longest = int(np.diff(history.offsets_R1).max(initial=0))
    per_user = (target_QK.shape[1] + longest) * frozen.dimension + target_QK.shape[1] * longest
    size = max(1, _NUMBERS // max(1, per_user))
    for first in range(0, len(target_QK) if longest else 0, size):
        rows_B = np.arange(first, min(first + size, len(target_QK)))
        row_BL, place_BL = _latest_first(history.take(rows_B))
        kept = min(top, row_BL.shape[1])
        cosine_BKL = _cosines(frozen, target_QK[rows_B], row_BL)
        # A stable sort, so that of equal ones the latest comes first.
        best_BKT = np.argsort(-cosine_BKL, axis=2, kind="stable")[:, :, :kept]
        cosine_BKT = np.take_along_axis(cosine_BKL, best_BKT, axis=2)
        cosine_QKT[rows_B, :, :kept] = cosine_BKT
        found_BKT = np.take_along_axis(place_BL[:, None], best_BKT, axis=2)
        behaviour_QKT[rows_B, :, :kept] = np.where(np.isfinite(cosine_BKT), found_BKT, -1)
    return Reasons(behaviour_QKT, cosine_QKT)


def _latest_first(history: Ragged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (B, L) of each history's distinct items, the latest first, 0 behind them, and their places."""
    length_B = np.diff(history.offsets_R1)
    shape = (len(history), max(1, int(length_B.max(initial=0))))
    row_BL, place_BL = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    user_N = np.repeat(np.arange(len(history)), length_B)
    place_N = np.arange(len(user_N)) - history.offsets_R1[user_N]
    after_N = length_B[user_N] - 1 - place_N
    row_N = history.values.astype(np.int64)
    order = np.lexsort((after_N, row_N, user_N))
    is_repeat_N = np.zeros(len(user_N), bool)
    same = (user_N[order[1:]] == user_N[order[:-1]]) & (row_N[order[1:]] == row_N[order[:-1]])
    is_repeat_N[order[1:]] = same
    row_BL[user_N, after_N] = np.where(is_repeat_N, 0, row_N)
    place_BL[user_N, after_N] = place_N
    return row_BL, place_BL


def _cosines(
    frozen: FrozenEmbeddings, target_BK: NDArray[np.integer], row_BL: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Of all pairs (B, K, L), -inf where one of the two has no vector."""
    target, behaviour = (torch.from_numpy(rows.astype(np.int64)) for rows in (target_BK, row_BL))
    cosine_BKL = torch.bmm(frozen(target), frozen(behaviour).transpose(1, 2))
    there_BKL = frozen.covered[target].unsqueeze(2) & frozen.covered[behaviour].unsqueeze(1)
    return np.asarray(cosine_BKL.masked_fill(~there_BKL, -torch.inf).numpy())
