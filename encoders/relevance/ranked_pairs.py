"""AUC and average precision of scored pairs under many weightings at once, as resampling queries asks for.

Both are sums over the positives of what is known from one sort: how much negative weight lies above a
positive, and beside it. Pairs of one score are a tie: for AUC half of it counts, for average precision they
are one step of the threshold, as in scikit-learn.

Shapes: P pairs, Q queries, p positives, n negatives, b weightings at once, B replicates, S scores to compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moonrec.bootstrap import resampled_counts


class RankedPairs:
    """Labelled pairs of queries, sorted by a score, the highest first."""

    def __init__(self, label_P: np.ndarray, score_P: np.ndarray, query_P: np.ndarray) -> None:
        """Sort pairs; `query_P` numbers their queries from 0."""
        order_P = np.argsort(-score_P, kind="stable")
        taken, left = order_P[label_P[order_P]], order_P[~label_P[order_P]]
        self._query_p, self._query_n = query_P[taken], query_P[left]
        falling_p, falling_n = -score_P[taken], -score_P[left]
        self._above_p = np.searchsorted(falling_n, falling_p, side="left")
        self._upto_p = np.searchsorted(falling_n, falling_p, side="right")
        self._last_p = np.searchsorted(falling_p, falling_p, side="right") - 1

    def __call__(self, weight_bQ: np.ndarray) -> np.ndarray:
        """AUC and average precision (b, 2) where a query's pairs count `weight_bQ` times (float64).

        NaN without both labels.
        """
        weight_bp, weight_bn = weight_bQ[:, self._query_p], weight_bQ[:, self._query_n]
        taken_bp = np.cumsum(weight_bp, axis=1)[:, self._last_p]
        sums_bn = np.cumsum(np.pad(weight_bn, ((0, 0), (1, 0))), axis=1)
        upto_bp, left_b, taken_b = sums_bn[:, self._upto_p], sums_bn[:, -1], weight_bp.sum(axis=1)
        below_bp = left_b[:, None] - (upto_bp + sums_bn[:, self._above_p]) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            precision_bp = np.where(weight_bp > 0, taken_bp / (taken_bp + upto_bp), 0.0)
            area_b = np.einsum("bp,bp->b", weight_bp, below_bp) / (taken_b * left_b)
            average_b = np.einsum("bp,bp->b", weight_bp, precision_bp) / taken_b
        both_b = (taken_b > 0) & (left_b > 0)
        return np.where(both_b[:, None], np.stack([area_b, average_b], 1), np.nan)


def point(label_P: np.ndarray, score_P: np.ndarray) -> np.ndarray:
    """AUC and average precision (2,) of pairs that count once each; NaN without both labels."""
    return RankedPairs(label_P, score_P, np.zeros(len(label_P), np.int64))(np.ones((1, 1)))[0]


def resampled(
    label_P: np.ndarray, scores_SP: Sequence[np.ndarray], query_P: np.ndarray, replicates: int, seed: int
) -> np.ndarray:
    """AUC and average precision (B, S, 2) over queries drawn with replacement, the same for every score.

    All pairs of a query are drawn together. A replicate without both labels is NaN.

    Args:
        label_P: whether the item was taken.
        scores_SP: scores of the same pairs, higher is more relevant.
        query_P: the query of each pair, by any number.
        replicates: B.
        seed: of the draws.
    """
    queries, number_P = np.unique(query_P, return_inverse=True)
    ranked = [RankedPairs(label_P, score_P, number_P) for score_P in scores_SP]
    found = [np.zeros((0, len(ranked), 2))]
    for drawn_bQ in resampled_counts(np.ones(len(queries), np.int64), replicates, seed):
        weight_bQ = drawn_bQ.astype(np.float64)
        found.append(np.stack([one(weight_bQ) for one in ranked], axis=1))
    return np.concatenate(found)
