"""By how much the model finds more than a baseline, with an interval over users.

The requests of one user are alike, so users are what is drawn anew; every method is judged on the same draws.

Shapes: Q requests, U users, C comparisons, B replicates, b of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moonrec.bootstrap import interval, resampled_counts

MODEL = "model"
COMPARED = ("recall@100", "ndcg@10")
_REPLICATES = 2_000


def differences(
    per_request: Mapping[str, Mapping[str, NDArray[np.float64]]],
    user_Q: NDArray[np.integer[Any]],
    group: str,
    seed: int,
) -> list[dict[str, Any]]:
    """The model's mean over requests minus each baseline's, for recall@100 and NDCG@10.

    Args:
        per_request: by the name of a method (`model` and the baselines) and of a metric, the numbers (Q).
        user_Q: the user of each request.
        group: what the requests are, such as "all" or "new".
        seed: of the draws.

    Returns:
        `baseline`, `metric`, `group`, `difference`, and the limits of the middle 95 % of 2,000 paired
        bootstrap replicates over users, `ci_low` and `ci_high`: None with a single user. Nothing without
        requests.
    """
    pairs = [(name, metric) for name in per_request if name != MODEL for metric in COMPARED]
    if not len(user_Q) or not pairs:
        return []
    apart_QC = np.stack(
        [per_request[MODEL][metric] - per_request[name][metric] for name, metric in pairs], axis=1
    )
    low_C, high_C = _interval_over_users(apart_QC, user_Q, seed)
    return [
        {
            "baseline": name, "metric": metric, "group": group, "difference": float(mean),
            "ci_low": _known(low), "ci_high": _known(high),
        }
        for (name, metric), mean, low, high in zip(pairs, apart_QC.mean(axis=0), low_C, high_C, strict=True)
    ]  # fmt: skip


def _interval_over_users(
    apart_QC: NDArray[np.float64], user_Q: NDArray[np.integer[Any]], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    _, code_Q = np.unique(user_Q, return_inverse=True)
    requests_U = np.bincount(code_Q)
    if len(requests_U) < 2:
        unknown_C = np.full(apart_QC.shape[1], np.nan)
        return unknown_C, unknown_C
    sums = [np.bincount(code_Q, weights=column_Q) for column_Q in apart_QC.T]
    totals_UC = np.column_stack([*sums, requests_U])
    drawn = resampled_counts(np.ones(len(requests_U), np.int64), _REPLICATES, seed)
    totals_BC = np.concatenate([count_bU.astype(np.float64) @ totals_UC for count_bU in drawn])
    return interval(totals_BC[:, :-1] / totals_BC[:, -1:])


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
