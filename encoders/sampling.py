"""Which pairs stand in which batch, and how they are shown: decided by seed and epoch alone.

A resumed run therefore repeats its batches, and every process of a distributed run plans the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoders.modality_mix import Pool, SourcePools
from encoders.products import View
from moonrec.errors import UserError

# A small source is passed at most so often in an epoch: early stopping must look before it overfits.
PASSES = 4


@dataclass(frozen=True)
class PlannedBatch:
    """Pairs (`rows`, numbers within source number `source`) that are trained on together, in these views."""

    source: int
    rows: np.ndarray
    query_view: View
    item_view: View


def epoch_plan(
    sources: Sequence[SourcePools],
    source_mix: Sequence[float],
    *,
    batch_size: int,
    pairs_per_epoch: int,
    seed: int,
    epoch: int,
    weights: Sequence[np.ndarray | None] | None = None,
    multiple_of: int = 1,
) -> list[PlannedBatch]:
    """The batches of one epoch, in training order.

    Each batch holds pairs of one source in one combination of views, so that negatives are of the positives'
    kind and modality. The sources share the epoch's pairs as `source_mix` says and the combinations as their
    pools say (over epochs exactly: a share of half a batch is a batch in every second epoch). Neither a
    source nor a pool is passed more than four times in an epoch on average, but every source gets a batch.
    Within a pool a pair comes in proportion to its weight, hardly ever twice in a batch; without weights all
    pairs come equally often, give or take one.

    Args:
        sources: what each source is drawn from.
        source_mix: share of the epoch per source; 0 leaves one out.
        batch_size: pairs of a batch; only a pool that is smaller has smaller batches.
        pairs_per_epoch: about how many pairs an epoch has.
        seed, epoch: decide everything.
        weights: per source, the pairs' sampling weights (None: all alike).
        multiple_of: a batch's length is a multiple of it, as processes that share it want, unless the pool
            itself is smaller.

    Raises:
        UserError: nothing is left to train on.
    """
    if not sum(source_mix):
        raise UserError("--mix gives no share to any source that is there; raise one above 0")
    mix = zip(sources, source_mix, strict=True)
    share = np.array([part if source.pools else 0 for source, part in mix], float)
    if not share.sum():
        raise UserError(
            "no two pairs have a query that --modality-mix gives a share to and an item that can be shown; "
            "raise the share of the modality that the queries have"
        )
    share /= share.sum()
    batches: list[PlannedBatch] = []
    for number in np.flatnonzero(share).tolist():
        source = sources[number]
        wanted = min(PASSES * source.pairs, round(share[number] * pairs_per_epoch))
        total = max(1, wanted // min(batch_size, source.pairs))
        of_pairs = None if weights is None else weights[number]
        counts = _batches_per_pool(source.pools, total, np.random.default_rng((seed, 2, epoch, number)))
        for place in np.flatnonzero(counts).tolist():
            pool = source.pools[place]
            rng = np.random.default_rng((seed, 6, epoch, number, place))
            of_pool = None if of_pairs is None else of_pairs[pool.rows]
            length = _batch_length(pool, batch_size, multiple_of)
            drawn = _draw(pool, of_pool, int(counts[place]), length, rng)
            views = pool.combination.query, pool.combination.item
            batches += [PlannedBatch(number, rows, *views) for rows in drawn]
    turn = np.random.default_rng((seed, 3, epoch)).permutation(len(batches))
    return [batches[i] for i in turn]


def _batches_per_pool(pools: Sequence[Pool], total: int, rng: np.random.Generator) -> np.ndarray:
    """`total` batches by share, rounded so that the expectation is exact."""
    ends = np.cumsum([pool.share for pool in pools])
    return _rounded(ends / ends[-1], total, rng)


def _rounded(ends: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Whole numbers that sum to `total`, each within one of its part of it (systematic sampling).

    Args:
        ends: increasing, ending in 1: where the parts end.
    """
    marks = np.minimum(np.floor(ends * total + rng.random()), total)
    return np.diff(marks, prepend=0.0).astype(np.int64)


def _batch_length(pool: Pool, batch_size: int, multiple_of: int) -> int:
    length = min(len(pool.rows), batch_size)
    return length if length < multiple_of else length - length % multiple_of


def _draw(
    pool: Pool, weights: np.ndarray | None, count: int, length: int, rng: np.random.Generator
) -> np.ndarray:
    """`count` batches, fewer if that passes the pool too often."""
    count = min(count, PASSES * len(pool.rows) // length)
    total = count * length
    if weights is None and total <= len(pool.rows):
        return rng.choice(pool.rows, total, replace=False).reshape(count, length)
    order = rng.permutation(len(pool.rows))
    parts = np.ones(len(order)) if weights is None else weights[order].astype(np.float64)
    ends = np.cumsum(parts)
    times = _rounded(ends / ends[-1], total, rng)
    turn = np.arange(total) - np.repeat(np.cumsum(times) - times, times)
    # The k-th of n repetitions stands somewhere in the k-th of n equal stretches: seldom two in one batch.
    place = (turn + rng.random(total)) / np.repeat(times, times)
    drawn = np.repeat(order, times)[np.argsort(place, kind="stable")]
    return pool.rows[drawn].reshape(count, length)
