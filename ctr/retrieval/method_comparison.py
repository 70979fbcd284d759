"""The model and its baselines on the same requests: the blocks of `metrics.json` that tell who finds more.

Shapes: Q requests, q of them with a new positive, K candidates, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.retrieval.candidate_metrics import KS, retrieval_metrics
from ctr.retrieval.differences import MODEL, differences
from ctr.retrieval.frequency_groups import recall_by_frequency
from ctr.retrieval.positives import Positives, new_positives

BASELINES = ("popularity", "item_knn", "content_mean")
# The model's numbers stand under this name in `metrics.json`.
_TEST = "test"
_Lists = Mapping[str, NDArray[np.integer[Any]]]
_PerRequest = dict[str, dict[str, NDArray[np.float64]]]


def compare_methods(
    candidates: _Lists,
    positives: Positives,
    user_Q: NDArray[np.integer[Any]],
    count_N: NDArray[np.integer[Any]],
    among_new: _Lists,
    seed: int,
) -> dict[str, Any]:
    """Judge every method on all requests, and on those for new items.

    Args:
        candidates: lists (Q, K) of `model`, `popularity`, `item_knn` and, with frozen vectors,
            `content_mean`.
        positives: what the requests should find.
        user_Q: the user of each request.
        count_N: how often each item of the catalogue stands in training; 0 is a new item.
        among_new: lists (q, K) of `model` and, with frozen vectors, `content_mean`, out of new items only,
            for the requests that `new_positives` names.
        seed: of the bootstrap.

    Returns:
        `test` (the model), one block per baseline (None for one that is not there), `new_items`, `groups`
        and `differences`, as in `metrics.json`.
    """
    blocks, per_request = _judged(candidates, positives, user_Q, len(count_N))
    new, rows_q = new_positives(positives, count_N)
    lists_of_new = {name: item_QK[rows_q] for name, item_QK in candidates.items()}
    new_blocks, new_per_request = _judged(lists_of_new, new, user_Q[rows_q], len(count_N))
    ranked_among_new, among_per_request = _judged(among_new, new, user_Q[rows_q], len(count_N))
    new_count = int(np.count_nonzero(count_N == 0))
    return {
        **_named(blocks, BASELINES),
        "new_items": {
            "requests": len(rows_q),
            "items": new_count,
            **_named(new_blocks, BASELINES),
            "among_new": {
                **_named(_of_requests(ranked_among_new), ("content_mean",)),
                "chance": _chance(new, new_count),
            },
        },
        "groups": recall_by_frequency(candidates, positives, count_N),
        "differences": differences(per_request, user_Q, "all", seed)
        + differences(new_per_request, user_Q[rows_q], "new", seed)
        + differences(among_per_request, user_Q[rows_q], "among new", seed),
    }


def _judged(
    candidates: _Lists, positives: Positives, user_Q: NDArray[np.integer[Any]], items: int
) -> tuple[dict[str, Any], _PerRequest]:
    """Means and numbers per request by method; nothing without requests."""
    blocks: dict[str, Any] = {}
    per_request: _PerRequest = {}
    for name, item_QK in candidates.items() if len(positives.count_Q) else ():
        means, per_request[name] = retrieval_metrics(
            item_QK, positives.query_P, positives.item_P, positives.count_Q, items
        )
        blocks[name] = means | {"users": len(np.unique(user_Q))}
    return blocks, per_request


def _named(blocks: Mapping[str, Any], baselines: tuple[str, ...]) -> dict[str, Any]:
    return {_TEST: blocks.get(MODEL)} | {name: blocks.get(name) for name in baselines}


def _of_requests(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Without what is measured against the whole catalogue, of which these lists are a part by design."""
    return {
        name: {key: value for key, value in block.items() if not key.startswith(("coverage@", "gini@"))}
        for name, block in blocks.items()
    }


def _chance(new: Positives, items: int) -> dict[str, float] | None:
    """The recall that lists drawn at random out of the new items are expected to have."""
    if not len(new.count_Q):
        return None
    # K of the items hold K / items of the positives, which are divided by min(K, positives).
    return {f"recall@{k}": float(np.minimum(np.maximum(k, new.count_Q) / items, 1.0).mean()) for k in KS}
