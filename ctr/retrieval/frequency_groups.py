"""Recall by how often an item stood in training: what is new, rare and common is found by different means.

Shapes: Q requests, P (request, positive) pairs, G groups, N items of the catalogue, K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.retrieval.candidate_metrics import retrieval_metrics
from ctr.retrieval.positives import Positives

NEW = "new"
METRIC = "recall@100"
_QUANTILES = (0.25, 0.5, 0.75)


def recall_by_frequency(
    candidates: Mapping[str, NDArray[np.integer[Any]]],
    positives: Positives,
    count_N: NDArray[np.integer[Any]],
) -> list[dict[str, Any]]:
    """Recall@100 of each method on new items and on those of up to four ranges of training counts.

    The ranges cut the positives that are not new into quarters, as nearly as items of equal count, which are
    never split, allow. A request counts in every group of which it has a positive, with these positives only.
    Positives that the catalogue lacks are in no group.

    Args:
        candidates: a method's lists (Q, K) by its name.
        positives: what the requests should find.
        count_N: how often each item stands in training.

    Returns:
        For each group its name (`new`, `3`, `4–17`), the counts `from` and `to` at its ends, `requests`,
        `positives`, and `recall@100`: a number per method, None where the group has no request.
    """
    count_P = positives.counts(count_N)
    groups = []
    for low, high in count_ranges(count_P):
        part, rows = positives.only((count_P >= low) & (count_P <= high))
        recall = {
            name: retrieval_metrics(
                item_QK[rows], part.query_P, part.item_P, part.count_Q, len(count_N), (100,)
            )[0][METRIC]
            for name, item_QK in candidates.items()
        }
        label = NEW if high == 0 else f"{low:,}" if low == high else f"{low:,}–{high:,}"
        groups.append(
            {
                "group": label, "from": low, "to": high,
                "requests": len(rows), "positives": len(part.query_P), METRIC: recall,
            }
        )  # fmt: skip
    return groups


def count_ranges(count_P: NDArray[np.integer[Any]]) -> Sequence[tuple[int, int]]:
    """The lowest and highest count of each group: (0, 0) first, then up to four that hold what occurs."""
    known = np.sort(count_P[count_P > 0])
    if not known.size:
        return [(0, 0)]
    cuts = np.unique(np.append(np.quantile(known, _QUANTILES, method="inverted_cdf"), known[-1]))
    first = np.searchsorted(known, np.append(0, cuts[:-1]), side="right")
    return [(0, 0), *((int(known[at]), int(cut)) for at, cut in zip(first, cuts, strict=True))]
