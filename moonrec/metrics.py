"""The numbers by which rankings are judged: AUC, GAUC, log loss, AUC by item frequency, recall and its kin.

Every function takes whole test sets as NumPy arrays and is vectorised over them. Tests hold them against
scikit-learn; importing that in every process that trains would cost 100 MB and a second. An AUC over rows of
one class does not exist; it comes back as None rather than as a number that somebody would average.

Shapes: N scored rows, U users, T ties, P (query, positive) pairs, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from moonrec.query_metrics import query_metrics

FREQUENCY_GROUPS = ("new", "rare", "common")
# A sigmoid in float32 saturates to exactly 0 or 1; one such row must not turn the mean into infinity. Ours.
_LOG_LOSS_CLIP = 1e-7


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Area under the ROC curve of `scores` (N) for 0/1 `labels` (N); None if only one class is present.

    `weights` (N) are how often each row counts; a row of weight 0 is as if absent. It is the group AUC of a
    single group.

    Raises:
        ValueError: lengths differ, a label is not 0/1, a score is NaN (with the count), or a weight is
            negative or not finite.
    """
    return gauc(np.zeros(len(np.asarray(labels)), np.int8), labels, scores, weights)


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log likelihood, in nats, of 0/1 `labels` (N) under `probabilities` (N) of label 1.

    Raises:
        ValueError: no rows, lengths differ, a label is not 0/1, a probability is NaN or outside [0, 1].
    """
    labels_N, probabilities_N = checked_scores(labels, probabilities)
    if not labels_N.size:
        raise ValueError("log loss of no rows is undefined")
    if probabilities_N.min() < 0 or probabilities_N.max() > 1:
        raise ValueError(
            f"probabilities lie in [{probabilities_N.min()}, {probabilities_N.max()}], expected [0, 1]"
        )
    clipped_N = np.clip(probabilities_N, _LOG_LOSS_CLIP, 1 - _LOG_LOSS_CLIP)
    return float(-np.mean(np.log(np.where(labels_N == 1, clipped_N, 1 - clipped_N))))


def gauc(
    users: ArrayLike | pa.Array | pa.ChunkedArray,
    labels: ArrayLike,
    scores: ArrayLike,
    weights: ArrayLike | None = None,
) -> float | None:
    """Group AUC: the mean of the users' own AUCs, each weighted by the user's number of rows.

    Only users with both classes count (the others have no AUC); ties take the average rank. It must see the
    whole test set at once: a user who is cut by a batch boundary would get another value.

    Args:
        users: (N) user ids, integers or strings (NumPy or Arrow).
        labels: (N) 0/1.
        scores: (N) anything that orders.
        weights: (N) how often each row counts, 1 by default; a user's weight is the sum of its rows'.

    Returns:
        The group AUC, or None if no user has both classes.

    Raises:
        ValueError: lengths differ, a user is null, a label is not 0/1, a score is NaN (with the count), or a
            weight is negative or not finite.

    Source: Zhu et al., "Optimized Cost per Click in Taobao Display Advertising", arXiv 1703.02091.
    """
    labels_N, scores_N = checked_scores(labels, scores)
    codes_N, user_count = _codes(users)
    if len(codes_N) != len(labels_N):
        raise ValueError(f"{len(codes_N)} users for {len(labels_N)} labels")
    auc_U, weight_U = auc_per_user(codes_N, labels_N, scores_N, user_count, weights)
    both_U = ~np.isnan(auc_U)
    if not both_U.any():
        return None
    return float(np.average(auc_U[both_U], weights=weight_U[both_U]))


def auc_per_user(
    codes: NDArray[np.integer[Any]],
    labels: ArrayLike,
    scores: ArrayLike,
    user_count: int,
    weights: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC of every user, NaN without both classes, and the sum of its rows' weights, float64 (U) each.

    Args:
        codes: (N) the user of every row as a number from 0 to `user_count` - 1.
        labels, scores, weights: as for `gauc`.
        user_count: U.

    Raises:
        ValueError: as `gauc`, or a code outside [0, U).
    """
    labels_N, scores_N = checked_scores(labels, scores)
    codes_N = checked_codes(codes, len(labels_N), user_count)
    weights_N = None if weights is None else _checked_weights(weights, len(labels_N))
    if not labels_N.size:
        return np.full(user_count, np.nan), np.zeros(user_count)
    order_N = _by_user_and_score(codes_N, scores_N, user_count)
    codes_N, scores_N, labels_N = codes_N[order_N], scores_N[order_N], labels_N[order_N]
    # A tie T is a run of rows of one user and one score.
    first_T = np.flatnonzero(_starts(codes_N) | _starts(scores_N))
    user_T = codes_N[first_T]
    if weights_N is None:
        positive_T = np.add.reduceat(labels_N, first_T, dtype=np.float64)
        negative_T = np.diff(first_T, append=len(labels_N)) - positive_T
    else:
        weights_N = weights_N[order_N]
        positive_T, negative_T = (np.add.reduceat(weights_N * (labels_N == y), first_T) for y in (1, 0))

    # Mann-Whitney: a pair of a positive and a negative is won by the higher score, a tie is half won.
    below_T = np.cumsum(negative_T) - negative_T
    first_of_user_T = np.flatnonzero(_starts(user_T))
    below_T -= np.repeat(below_T[first_of_user_T], np.diff(first_of_user_T, append=len(user_T)))
    wins_T = positive_T * (below_T + negative_T / 2)
    wins_U, positive_U, negative_U = (
        np.bincount(user_T, each_T, user_count) for each_T in (wins_T, positive_T, negative_T)
    )
    pairs_U = positive_U * negative_U
    auc_U: NDArray[np.float64] = np.full(user_count, np.nan)
    np.divide(wins_U, pairs_U, out=auc_U, where=pairs_U > 0)
    return auc_U, np.add(positive_U, negative_U, dtype=np.float64)


def auc_by_group(
    groups: ArrayLike, labels: ArrayLike, scores: ArrayLike, names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """AUC within each group of rows: a list of `{"group", "rows", "auc"}`.

    Args:
        groups: (N) the group of every row.
        labels: (N) 0/1.
        scores: (N) anything that orders.
        names: the groups to list, in this order (an absent one has 0 rows and AUC None); by default all that
            occur, sorted.

    Raises:
        ValueError: lengths differ, a label is not 0/1, a score is NaN, or a group is not among `names`.
    """
    labels_N, scores_N = checked_scores(labels, scores)
    groups_N = np.asarray(groups)
    if groups_N.shape != labels_N.shape:
        raise ValueError(f"{groups_N.shape} groups for {labels_N.shape} labels")
    found = np.unique(groups_N).tolist()
    if names is not None and (strange := set(found) - set(names)):
        raise ValueError(f"groups {sorted(strange)} are not among {list(names)}")
    result = []
    for name in found if names is None else names:
        inside_N = groups_N == name
        result.append(
            {
                "group": name,
                "rows": int(inside_N.sum()),
                "auc": auc(labels_N[inside_N], scores_N[inside_N]),
            }
        )
    return result


def frequency_groups(
    train_count_per_row: NDArray[np.integer[Any]], train_count_per_item: NDArray[np.integer[Any]]
) -> NDArray[np.str_]:
    """Name every row "new", "rare" or "common" by how often its item stands in the training rows.

    "new" items have no training row. Of the others, taken from the least frequent upwards, "rare" are those
    that together hold at most half of the training rows, "common" are the rest; items of equal count are
    never split. The threshold comes from the training rows alone: one for every test set. (Our rule.)

    Args:
        train_count_per_row: (N) training rows of the item of each row that is to be named.
        train_count_per_item: training rows of each item that has any (zeros are ignored).
    """
    counts, items = np.unique(np.asarray(train_count_per_item), return_counts=True)
    rows_up_to = np.cumsum(counts * items)
    within_half = counts[rows_up_to * 2 <= rows_up_to[-1]] if counts.size else counts
    rare_up_to = within_half[-1] if within_half.size else 0
    count_N = np.asarray(train_count_per_row)
    return np.array(FREQUENCY_GROUPS)[(count_N > 0).astype(np.int8) + (count_N > rare_up_to)]


def ranking_metrics(
    ranks_P: NDArray[np.integer[Any]],
    query_of_P: NDArray[np.integer[Any]],
    positives_per_query_Q: NDArray[np.integer[Any]],
    ks: Sequence[int] = (1, 5, 10, 50),
) -> dict[str, float]:
    """Retrieval metrics from the ranks of the positives: the means of `query_metrics` over the queries.

    Both definitions of recall in use for image-based search are given: `hit@K` = 1 if any positive is among
    the top K; `recall@K` = |TopK ∩ Pos| / min(K, |Pos|), which can fall as K grows. `mrr` is the reciprocal
    rank of the first positive; `ndcg@10` has binary gains and an ideal list of min(10, |Pos|) positives.

    Args:
        ranks_P: (P) 1-based rank of each positive, as `moonrec.nearest.ranks_of_positives` gives it.
        query_of_P: (P) 0-based query of each positive.
        positives_per_query_Q: (Q) |Pos|; it may exceed the query's entries in `ranks_P` by positives that are
            not in the catalogue, which nobody can find.
        ks: the cut-offs K.

    Raises:
        ValueError: no queries, a query without positives, more ranks than positives, a rank below 1, or two
            positives of one query at the same rank (the pair was given twice).
    """
    ranks_P, query_of_P = np.asarray(ranks_P), np.asarray(query_of_P)
    positives_Q = np.asarray(positives_per_query_Q, dtype=np.int64)
    _check_ranks(ranks_P, query_of_P, positives_Q)
    values = query_metrics(ranks_P, query_of_P, positives_Q, ks)
    return {name: float(value_Q.mean()) for name, value_Q in values.items()}


def checked_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Labels (N) and scores (N) as arrays.

    Raises:
        ValueError: lengths differ, a label is not 0/1, or a score is NaN (with the count).
    """
    labels_N, scores_N = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels_N.ndim != 1 or labels_N.shape != scores_N.shape:
        raise ValueError(
            f"labels {labels_N.shape} and scores {scores_N.shape}, expected two lists of one length"
        )
    if missing := int(np.isnan(scores_N).sum()):
        raise ValueError(f"{missing} of {scores_N.size} scores are NaN")
    if not ((labels_N == 0) | (labels_N == 1)).all():
        raise ValueError("labels other than 0 and 1")
    return labels_N.astype(np.int8), scores_N


def checked_codes(codes: NDArray[np.integer[Any]], rows: int, count: int) -> NDArray[np.integer[Any]]:
    """The users of the rows, as numbers from 0 to `count` - 1.

    Raises:
        ValueError: not one per row, or a number outside that range.
    """
    codes_N = np.asarray(codes)
    if codes_N.shape != (rows,):
        raise ValueError(f"{codes_N.shape} users for {rows} labels")
    if rows and (codes_N.min() < 0 or codes_N.max() >= count):
        raise ValueError(f"a user's number is outside [0, {count})")
    return codes_N


def _checked_weights(weights: ArrayLike, rows: int) -> NDArray[np.float64]:
    weights_N = np.asarray(weights, dtype=np.float64)
    if weights_N.shape != (rows,):
        raise ValueError(f"{weights_N.shape} weights for {rows} labels")
    if bad := int((~(np.isfinite(weights_N) & (weights_N >= 0))).sum()):
        raise ValueError(f"{bad} of {rows} weights are negative or not finite")
    return weights_N


def _codes(users: ArrayLike | pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.integer[Any]], int]:
    """Integer codes of the users and how many users there are; hashing in Arrow is fast for strings too."""
    array = users if isinstance(users, pa.Array | pa.ChunkedArray) else pa.array(np.asarray(users))
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    encoded = array.dictionary_encode()
    if encoded.null_count:
        raise ValueError(f"{encoded.null_count} of {len(encoded)} users are null")
    return encoded.indices.to_numpy(), len(encoded.dictionary)


def _by_user_and_score(
    codes_N: NDArray[np.integer[Any]], scores_N: NDArray[np.float64], user_count: int
) -> NDArray[np.int64]:
    """The order of rows by user, then score; two sorts of plain numbers are faster than one `lexsort`."""
    by_score_N = np.argsort(scores_N)
    if user_count == 1:
        return by_score_N
    key_N = (codes_N[by_score_N].astype(np.int64) << 32) | np.arange(len(codes_N))
    key_N.sort()
    return by_score_N[key_N & 0xFFFF_FFFF]


def _starts(values_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a run of equal values begins."""
    starts_N = np.ones(len(values_N), dtype=bool)
    np.not_equal(values_N[1:], values_N[:-1], out=starts_N[1:])
    return starts_N


def _check_ranks(
    ranks_P: NDArray[np.integer[Any]], query_of_P: NDArray[np.integer[Any]], positives_Q: NDArray[np.int64]
) -> None:
    if not positives_Q.size or positives_Q.min() < 1:
        raise ValueError(f"{int((positives_Q < 1).sum())} of {positives_Q.size} queries have no positive")
    if ranks_P.shape != query_of_P.shape:
        raise ValueError(f"{ranks_P.shape} ranks for {query_of_P.shape} queries")
    if not ranks_P.size:
        return
    if query_of_P.min() < 0 or query_of_P.max() >= positives_Q.size:
        raise ValueError(f"query numbers outside [0, {positives_Q.size})")
    if ranks_P.min() < 1:
        raise ValueError("ranks start at 1 (0 marks a positive that was excluded from its own ranking)")
    if (np.bincount(query_of_P, minlength=positives_Q.size) > positives_Q).any():
        raise ValueError("a query has more ranks than positives")
    order = np.lexsort((ranks_P, query_of_P))
    if ((np.diff(ranks_P[order]) == 0) & (np.diff(query_of_P[order]) == 0)).any():
        raise ValueError("a query has two positives at the same rank: the same pair was given twice")
