"""Cleaning of the pairs of round 2, step by step, each counted.

The four steps of MOON Embedding (https://arxiv.org/abs/2511.11305): a product with several positive queries
keeps the one that the model of round 1 finds least alike; SKUs of one product are one; the mix of categories
follows what is shown online; a query or a title that names fewer than two things is dropped. The step for the
mix of categories drops nothing: it returns sampling weights.

Shapes: P pairs, N catalogue items, R feature rows (the catalogue's, then the queries').
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from encoders.pairs import HeldOut, Pairs
from encoders.products import Product
from moonrec.domains import category_levels
from moonrec.errors import UserError
from moonrec.ids import codes_of, rows_of
from moonrec.tables import Table

# No category is drawn more than ten times as often, or as rarely, as its pairs come. Ours.
_WEIGHT_LIMITS = (0.1, 10.0)


@dataclass(frozen=True)
class CleaningSteps:
    """Which steps are taken; all of them in the paper."""

    hardest_query: bool = True
    merge_skus: bool = True
    match_exposure: bool = True
    entity_filter: bool = True


@dataclass(frozen=True)
class Evidence:
    """What the steps judge by.

    Attributes:
        product_N: per item a code that the SKUs of one product share.
        query_R: per feature row a code of what it asks for (`query_codes`).
        enough_R: per feature row whether its words name enough (`Entities.enough`).
        category_N: per item a code of its widest category, -1 for none (`top_categories`).
        exposures_N: per item how often it was shown (`exposure_counts`); None where no log tells.
    """

    product_N: np.ndarray
    query_R: np.ndarray
    enough_R: np.ndarray
    category_N: np.ndarray
    exposures_N: np.ndarray | None


@dataclass(frozen=True)
class Cleaned:
    """The pairs that are left, their sampling weights (None: all alike), and what each step did."""

    pairs: Pairs
    weights: np.ndarray | None
    counts: dict[str, dict[str, Any]]


def clean(
    name: str,
    pairs: Pairs,
    cosine_P: np.ndarray,
    evidence: Evidence,
    *,
    fewest: int,
    steps: CleaningSteps = CleaningSteps(),
) -> Cleaned:
    """Clean one source of pairs.

    Args:
        name: of the source, for messages.
        pairs: its training pairs.
        cosine_P: similarity of each pair's two sides under the model of round 1.
        evidence: what the steps judge by.
        fewest: as many pairs stay, if there are so many, though several of a product do then.
        steps: which to take.

    Raises:
        UserError: the entity filter leaves no pair.
    """
    rows = np.arange(len(pairs))
    counts: dict[str, dict[str, Any]] = {}
    product_P = evidence.product_N[pairs.positive] if steps.merge_skus else pairs.positive

    def left(step: str, kept: np.ndarray, **more: Any) -> np.ndarray:
        counts[step] = {"before": len(rows), "after": len(kept), **more}
        return kept

    if steps.entity_filter:
        enough_P = evidence.enough_R[pairs.anchor] & evidence.enough_R[pairs.positive]
        rows = left("entity_filter", np.flatnonzero(enough_P))
        if len(pairs) and not len(rows):
            raise UserError(
                f"the entity filter leaves none of the {len(pairs):,} pairs of {name}: all their queries or "
                "titles name fewer than two things; train round 2 without it"
            )
    if steps.merge_skus:
        rows = left("merge_skus", rows[first_of_each(evidence.query_R[pairs.anchor[rows]], product_P[rows])])
    if steps.hardest_query:
        kept, per_product = hardest_queries(cosine_P[rows], product_P[rows], fewest)
        rows = left("hardest_query", rows[kept], queries_per_product=per_product)
    weights = None
    if steps.match_exposure:
        weights, reason = category_weights(evidence.category_N, evidence.exposures_N, pairs.positive[rows])
        left("match_exposure", rows, **({"skipped": reason} if weights is None else {}))
    return Cleaned(pairs[rows], weights, counts)


def first_of_each(*codes_P: np.ndarray) -> np.ndarray:
    """Rows of the first pair with each combination of codes, in order."""
    order = np.lexsort(codes_P)  # stable: among equals the earliest row comes first
    changed = np.zeros(len(order), bool)
    changed[:1] = True
    for code_P in codes_P:
        changed[1:] |= np.diff(code_P[order]) != 0
    return np.sort(order[changed])


def hardest_queries(cosine_P: np.ndarray, product_P: np.ndarray, fewest: int) -> tuple[np.ndarray, int]:
    """Per product the pairs whose two sides the model finds least alike: what it has yet to learn.

    The paper keeps one query per product. Where that leaves fewer than `fewest` pairs, as in a small
    catalogue with many queries, the smallest number per product that leaves enough is kept instead (ours).

    Returns:
        The rows kept, in order, and how many a product keeps at most.
    """
    _, product, size = np.unique(product_P, return_inverse=True, return_counts=True)
    order = np.lexsort((cosine_P, product))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    left_by_number = np.cumsum(np.bincount(rank))
    number = 1 + int(np.searchsorted(left_by_number, min(fewest, len(rank))))
    return np.flatnonzero(rank < number), number


def category_weights(
    category_N: np.ndarray, exposures_N: np.ndarray | None, positive_P: np.ndarray
) -> tuple[np.ndarray | None, str]:
    """Sampling weights with which the pairs' categories come in the proportions in which they are shown.

    A pair weighs its category's share of the exposures over its share of the pairs, within a tenth and ten.
    Items without a category are one more category.

    Returns:
        Weights (P,) and "", or None and why there are none.
    """
    if exposures_N is None:
        return None, "no impressions tell what is shown"
    if not (category_N >= 0).any():
        return None, "the catalogue has no categories"
    if not exposures_N.sum():
        return None, "no impression shows an item of the catalogue"
    category_P = category_N[positive_P] + 1
    shown = np.bincount(category_N + 1, weights=exposures_N)
    taken = np.bincount(category_P, minlength=len(shown))
    weight = shown / shown.sum() / np.maximum(taken / max(1, taken.sum()), 1e-12)
    return weight.clip(*_WEIGHT_LIMITS)[category_P], ""


def top_categories(items: Table) -> np.ndarray:
    """Per item a code of its widest category, -1 for none, (N,).

    Where the whole catalogue lies under one name (`Movies > Drama`), the widest level that tells items apart
    is taken (ours).
    """
    if "category" not in items.column_names:
        return np.full(items.count_rows(), -1)
    codes, distinct = codes_of(items.read(["category"]).column("category"))
    paths = [category_levels(text.as_py()) for text in distinct]
    depth = 1
    while depth < max(map(len, paths), default=0) and len({path[:depth] for path in paths if path}) == 1:
        depth += 1
    names = {path[:depth]: number for number, path in enumerate(paths) if path}
    return np.array([*(names.get(path[:depth], -1) for path in paths), -1], np.int64)[codes]


def exposure_counts(impressions: Table, item_ids: Sequence[str], holdout: Table | None = None) -> np.ndarray:
    """How often each item of the catalogue was shown, (N,); what will be tested on is not looked at.

    Args:
        impressions: the log.
        item_ids: the catalogue's ids, in order.
        holdout: impressions that will be tested on: a user's rows from the first of them on do not count.
    """
    known, held = pa.array(item_ids, pa.string()), None if holdout is None else HeldOut(holdout)
    total = np.zeros(len(item_ids), np.int64)
    for batch in impressions.batches(["user_id", "item_id", "timestamp"], 2**21):
        rows = rows_of(batch["item_id"], known)
        keep = rows >= 0
        if held is not None:
            keep &= batch["timestamp"].to_numpy() < held.limits(batch["user_id"])
        total += np.bincount(rows[keep], minlength=len(total))
    return total


def query_codes(queries: Iterable[list[Product]], product_N: np.ndarray) -> np.ndarray:
    """Per feature row a code of what it asks for, (R,): equal for SKUs of one product, and for equal queries.

    Args:
        queries: of the searches, in file order; an empty iterable where there are none.
        product_N: of the catalogue, whose items are the anchors of event pairs.
    """
    # 64 bits of a SHA-256: of ten million queries, two that differ agree with a chance of three in a million.
    prints = np.frombuffer(b"".join(one.digest()[:8] for part in queries for one in part), np.int64)
    codes = np.unique(prints, return_inverse=True)[1]
    return np.concatenate([product_N, codes + (product_N.max(initial=-1) + 1)])
