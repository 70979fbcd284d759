"""How much every user moves a test set's AUC and GAUC: the variance of both, and of their differences.

The rows of one user are not independent, so an interval for an AUC must treat users, not rows, as the sample.
The influence of a user is the first-order change of the metric with that user's weight in the sample. Their
squares sum to the variance of the metric over samples of users (clustered DeLong), and for two models, or
two metrics, on the same test set the products sum to the covariance: cov(a, b) = Σ_c a_c b_c, so that the
variance of a difference is Σ_c (a_c − b_c)². Nothing is drawn at random, and one sort is all it takes.

Source: Obuchowski, "Nonparametric Analysis of Clustered ROC Curve Data", Biometrics 53 (1997),
https://doi.org/10.2307/2533958; for single rows DeLong et al., Biometrics 44 (1988),
https://doi.org/10.2307/2531595.

Shapes: R rows, C clusters (users), T ties.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moonrec.metrics import auc_per_user, checked_codes, checked_scores


def auc_influence(
    clusters: NDArray[np.integer[Any]], labels: ArrayLike, scores: ArrayLike, cluster_count: int
) -> NDArray[np.float64]:
    """The influence of every cluster on the AUC, float64 (C): it sums to 0, its square to the variance.

    A positive row contributes the share of negatives that it beats, less the AUC, a negative row the share of
    positives that beat it, less the AUC; ties count half. The factor √(n / (n − 1)) for n clusters with rows
    is included. Clusters without rows have influence 0.

    Args:
        clusters: (R) the cluster of every row as a number from 0 to `cluster_count` - 1.
        labels: (R) 0/1.
        scores: (R) anything that orders.
        cluster_count: C.

    Returns:
        The influences; all NaN where the AUC or its variance does not exist: rows of one class, or of fewer
        than two clusters.

    Raises:
        ValueError: lengths differ, a label is not 0/1, a score is NaN, or a cluster is outside [0, C).
    """
    labels_R, scores_R = checked_scores(labels, scores)
    cluster_R = checked_codes(clusters, len(labels_R), cluster_count)
    positives = int(np.count_nonzero(labels_R))
    negatives = len(labels_R) - positives
    present = int(np.count_nonzero(np.bincount(cluster_R, minlength=1)))
    if not positives or not negatives or present < 2:
        return np.full(cluster_count, np.nan)

    _, tie_R = np.unique(scores_R, return_inverse=True)
    positive_T = np.bincount(tie_R, weights=labels_R)
    negative_T = np.bincount(tie_R) - positive_T
    beaten_T = (np.cumsum(negative_T) - negative_T / 2) / negatives
    beating_T = 1 - (np.cumsum(positive_T) - positive_T / 2) / positives
    whole = float(positive_T @ beaten_T) / positives
    share_R = np.where(
        labels_R == 1, (beaten_T[tie_R] - whole) / positives, (beating_T[tie_R] - whole) / negatives
    )
    influence_C = np.bincount(cluster_R, weights=share_R, minlength=cluster_count)
    return influence_C * np.sqrt(present / (present - 1))


def gauc_influence(
    clusters: NDArray[np.integer[Any]], labels: ArrayLike, scores: ArrayLike, cluster_count: int
) -> NDArray[np.float64]:
    """The influence of every cluster on the group AUC, float64 (C): it sums to 0, its square to the variance.

    GAUC is a ratio of two sums over users, Σ rows · AUC / Σ rows; a user's influence is its share of the rows
    times the distance of its AUC from the GAUC. The factor √(n / (n − 1)) for the n users with both classes
    is included; the others have influence 0, since they do not count. Arguments and errors are those of
    `auc_influence`.

    Returns:
        The influences; all NaN where fewer than two users have both classes.
    """
    auc_C, rows_C = auc_per_user(clusters, labels, scores, cluster_count)
    both_C = ~np.isnan(auc_C)
    present = int(np.count_nonzero(both_C))
    if present < 2:
        return np.full(cluster_count, np.nan)
    whole = np.average(auc_C[both_C], weights=rows_C[both_C])
    influence_C = np.zeros(cluster_count)
    influence_C[both_C] = rows_C[both_C] * (auc_C[both_C] - whole) / rows_C[both_C].sum()
    return influence_C * np.sqrt(present / (present - 1))
