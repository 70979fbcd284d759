"""Accuracy and macro F1 of zero-shot labels over items drawn with replacement.

F1 is no mean over items, so every replicate has its own confusion counts. Items that agree in their right
label and in what they were taken for are drawn together, as one cell.

Shapes: J items, X entrants, C cells, K classes, B replicates, b of them at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from moonrec.bootstrap import resampled_counts
from moonrec.macro_f1 import f1_per_class

LABEL_METRICS = ("accuracy", "f1")


def resampled_scores(
    right_J: np.ndarray, said_JX: np.ndarray, replicates: int, seed: int
) -> NDArray[np.float64]:
    """`LABEL_METRICS` of each entrant in every replicate, float64 (B, X, 2).

    All entrants are measured on the same draws. The macro average is over the classes that a replicate has.

    Args:
        right_J: the right label of each item.
        said_JX: what each entrant took it for.
        replicates: B.
        seed: of the draws.
    """
    classes, class_J = np.unique(right_J, return_inverse=True)
    place_JX = np.searchsorted(classes, said_JX).clip(max=len(classes) - 1)
    # What is none of the items' classes is wrong, and counts for no class.
    place_JX = np.where(classes[place_JX] == said_JX, place_JX, len(classes))
    cells, counts_C = np.unique(np.column_stack([class_J, place_JX]), axis=0, return_counts=True)
    class_C, said_XC = cells[:, 0], cells[:, 1:].T
    has_CK = _one_hot(class_C, len(classes))
    told = [_one_hot(said_C, len(classes)) for said_C in said_XC]
    hits = [has_CK.multiply(told_CK).tocsr() for told_CK in told]
    found = []
    for drawn_bC in resampled_counts(counts_C, replicates, seed):
        drawn = drawn_bC.astype(np.float64)
        having_bK = drawn @ has_CK
        of_entrants = [
            _scores(drawn @ hits_CK, having_bK, drawn @ told_CK)
            for hits_CK, told_CK in zip(hits, told, strict=True)
        ]
        found.append(np.stack(of_entrants, axis=1))
    return np.concatenate(found)


def _scores(hits_bK: np.ndarray, having_bK: np.ndarray, told_bK: np.ndarray) -> np.ndarray:
    """Accuracy and macro F1 (b, 2)."""
    accuracy_b = hits_bK.sum(axis=1) / having_bK.sum(axis=1)
    f1_bK = f1_per_class(hits_bK, having_bK, told_bK)
    present_bK = having_bK > 0
    f1_b = (f1_bK * present_bK).sum(axis=1) / present_bK.sum(axis=1)
    return np.stack([accuracy_b, f1_b], axis=1)


def _one_hot(place_C: np.ndarray, count: int) -> sparse.csr_array:
    """(C, K); a row without a one for a place beyond the last class."""
    row_C = np.flatnonzero(place_C < count)
    return sparse.csr_array((np.ones(len(row_C)), (row_C, place_C[row_C])), shape=(len(place_C), count))
