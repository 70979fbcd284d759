"""AUC within queries: only the order of a query's own items counts, not how queries compare with each other.

It is what a list of results needs, while the AUC over all pairs also asks whether scores of different queries
mean the same, as a threshold needs. The mean is over queries with both labels, weighted by their pairs
(`moonrec.metrics.gauc`).

Shapes: P pairs, Q queries, S scores to compare, B replicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moonrec.bootstrap import resampled_means
from moonrec.metrics import auc_per_user


def query_auc(
    label_P: np.ndarray, scores_SP: Sequence[np.ndarray], query_P: np.ndarray, replicates: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean AUC within queries (S,), and the same over queries drawn with replacement (B, S).

    NaN where no query has both labels.

    Args:
        label_P: whether the item was taken.
        scores_SP: scores of the same pairs, higher is more relevant.
        query_P: the query of each pair, by any number.
        replicates: B.
        seed: of the draws.
    """
    queries, number_P = np.unique(query_P, return_inverse=True)
    areas, weight_Q = [], np.zeros(len(queries))
    for score_P in scores_SP:
        area_Q, weight_Q = auc_per_user(number_P, label_P, score_P, len(queries))
        areas.append(area_Q * weight_Q)
    has_both_Q = ~np.isnan(areas[0])
    if not has_both_Q.any():
        return np.full(len(areas), np.nan), np.full((replicates, len(areas)), np.nan)
    parts_QS = np.column_stack([*areas, np.where(has_both_Q, weight_Q, np.nan)])
    mean_S = np.nanmean(parts_QS, axis=0)
    drawn_BS = resampled_means(parts_QS, replicates, seed)
    # A ratio of two means is the weighted mean.
    return mean_S[:-1] / mean_S[-1], drawn_BS[:, :-1] / drawn_BS[:, -1:]
