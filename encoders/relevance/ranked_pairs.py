"""AUC and average precision of scored pairs under many weightings at once, as resampling queries asks for.

Both are computed over one sort of the pairs; pairs of one score are a tie: for AUC half of it counts, for
average precision they are one step of the threshold, as in scikit-learn.

Shapes: P pairs, Q queries, T distinct scores, b weightings at once, B replicates, S scores to compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moonrec.bootstrap import resampled_counts


class RankedPairs:
    """Labelled pairs, sorted by a score, the highest first."""

    def __init__(self, label_P: np.ndarray, score_P: np.ndarray) -> None:
        self._order_P = np.argsort(-score_P, kind="stable")
        sorted_P = score_P[self._order_P]
        self._label_P = label_P[self._order_P].astype(np.float64)
        self._last_T = np.flatnonzero(np.diff(sorted_P, append=-np.inf) != 0)

    def __call__(self, weight_bP: np.ndarray) -> np.ndarray:
        """AUC and average precision (b, 2) where pairs count `weight_bP` times; NaN without both labels."""
        weight_bP = weight_bP[:, self._order_P]
        taken_bT = np.cumsum(weight_bP * self._label_P, axis=1)[:, self._last_T]
        all_bT = np.cumsum(weight_bP, axis=1)[:, self._last_T]
        left_bT = all_bT - taken_bT
        taken_b, left_b = weight_bP @ self._label_P, weight_bP @ (1 - self._label_P)
        step_bT = np.diff(taken_bT, axis=1, prepend=0.0)
        below_bT = left_b[:, None] - left_bT + np.diff(left_bT, axis=1, prepend=0.0) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            precision_bT = np.where(all_bT > 0, taken_bT / all_bT, 0.0)
            area_b = (step_bT * below_bT).sum(1) / (taken_b * left_b)
            average_b = (step_bT * precision_bT).sum(1) / taken_b
        both_b = (taken_b > 0) & (left_b > 0)
        return np.where(both_b[:, None], np.stack([area_b, average_b], 1), np.nan)


def point(label_P: np.ndarray, score_P: np.ndarray) -> np.ndarray:
    """AUC and average precision (2,) of pairs that count once each; NaN without both labels."""
    return RankedPairs(label_P, score_P)(np.ones((1, len(label_P))))[0]


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
    ranked = [RankedPairs(label_P, score_P) for score_P in scores_SP]
    found = [np.zeros((0, len(ranked), 2))]
    for drawn_bQ in resampled_counts(np.ones(len(queries), np.int64), replicates, seed):
        weight_bP = drawn_bQ[:, number_P].astype(np.float64)
        found.append(np.stack([one(weight_bP) for one in ranked], axis=1))
    return np.concatenate(found)
