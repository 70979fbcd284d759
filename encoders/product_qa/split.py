"""Which items are trained on, which are held out, and in what order questions come.

Everything is decided by the seed, the epoch and the step alone, so that a resumed run repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HELD_OUT_SHARE = 0.05
MAX_HELD_OUT = 500
# A small catalogue is asked at most so often in an epoch: early stopping must look before it overfits.
_PASSES = 4


@dataclass(frozen=True)
class Split:
    """Rows of the catalogue, ascending: those trained on, and those that early stopping looks at."""

    training: np.ndarray
    held_out: np.ndarray


def split_items(rows: np.ndarray, product_of_item_N: np.ndarray, seed: int) -> Split:
    """Hold out about 5 % of `rows`, at most 500, so that no product has SKUs on both sides.

    Args:
        rows: the items that questions can be asked about.
        product_of_item_N: a code per item of the catalogue, equal for the SKUs of one product.
        seed: which products are held out.

    A catalogue of one product holds out nothing.
    """
    products, product_R = np.unique(product_of_item_N[rows], return_inverse=True)
    if len(products) < 2:
        return Split(rows, rows[:0])
    sizes = np.bincount(product_R)
    target = min(MAX_HELD_OUT, max(1, round(HELD_OUT_SHARE * len(rows))))
    order = np.random.default_rng((seed, 8)).permutation(len(products))
    # Products with more SKUs than the share come last: one of them is held out only where there is no other.
    order = order[np.argsort(sizes[order] > target, kind="stable")]
    taken = max(1, int(np.searchsorted(np.cumsum(sizes[order]), target, side="right")))
    held = np.isin(product_R, order[:taken])
    return Split(rows[~held], rows[held][:MAX_HELD_OUT])


def question_plan(
    training: np.ndarray, *, batch_size: int, questions: int, seed: int, epoch: int, equal_shares: int = 1
) -> list[tuple[int, np.ndarray]]:
    """Batches of one epoch as (round, rows): in every round an item is asked another question.

    Args:
        training: rows to ask about.
        batch_size: rows per batch; those at the end of a round that fill no batch wait for another epoch,
            unless there is no batch at all without them.
        questions: of the epoch, but at most four per item.
        seed, epoch: decide the order.
        equal_shares: every batch divides evenly by this.

    Returns:
        At least one batch, or none where there are fewer rows than shares.
    """
    rng = np.random.default_rng((seed, 9, epoch))
    batches: list[tuple[int, np.ndarray]] = []
    left = min(questions, _PASSES * len(training))
    for number in range(_PASSES):
        order = rng.permutation(training)[: max(left, 0)]
        left -= len(order)
        size = min(batch_size, len(order) // equal_shares * equal_shares)
        if size and (size == batch_size or not batches):
            full = len(order) // size
            batches += [
                ((epoch - 1) * _PASSES + number, part) for part in np.split(order[: full * size], full)
            ]
    return batches
