"""Macro F1: the mean over classes of 2·hits / (items of the class + items taken for it).

It is no mean over items. Its influence per item is that of the delta method: of a class with F1 = 2a/b an
item moves a by 1 where it is rightly named so, and b by 1 for each of the two that it is, so that F1 moves by
(2·right − F1·(is + said)) / b.

Shapes: I items, K classes; an ellipsis stands for any leading axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def f1_per_class(
    hits: NDArray[np.number[Any]], having: NDArray[np.number[Any]], told: NDArray[np.number[Any]]
) -> NDArray[np.float64]:
    """F1 of every class (..., K); 0 for a class that nothing is or was taken for.

    Args:
        hits: items of the class that were taken for it (..., K).
        having: items of the class.
        told: items that were taken for it.
    """
    f1: NDArray[np.float64] = 2 * hits / (having + told).clip(min=1)
    return f1


def macro_f1(
    right_I: NDArray[np.integer[Any]], said_I: NDArray[np.integer[Any]]
) -> tuple[float, NDArray[np.float64]]:
    """Macro F1 over the classes that the items have, and every item's influence on it (I), which sum to 0.

    Args:
        right_I: the right class of each item, at least one item.
        said_I: what it was taken for; what no item is counts as wrong, and for no class.
    """
    classes, right_I = np.unique(right_I, return_inverse=True)
    place = np.minimum(np.searchsorted(classes, said_I), len(classes) - 1)
    said_I = np.where(classes[place] == said_I, place, len(classes))
    count = len(classes) + 1
    hit_I = right_I == said_I
    having_K, told_K = (np.bincount(one, minlength=count) for one in (right_I, said_I))
    f1_K = f1_per_class(np.bincount(right_I[hit_I], minlength=count), having_K, told_K)
    both_K = having_K + told_K
    per_K = f1_K / both_K.clip(min=1)
    influence_I = 2 * hit_I / both_K[right_I] - per_K[right_I] - per_K[said_I]
    return float(f1_K[:-1].mean()), influence_I / len(classes)
