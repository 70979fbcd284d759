"""Zero-shot classification: an item is what the nearest label's words say, as in MOON's benchmark (MBE).

Items show their picture, title and description: neither categories nor attributes, since either often holds
the other's answer too. What is hidden is hidden before anything is made of it: the text tower of `compact`
reads all texts of a product together, so that words left out afterwards would still tell.

Paper: https://arxiv.org/abs/2508.11999.
Shapes: K labels, J items judged, n of them in a shard, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from encoders.evaluation.label_sets import LabelSet
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.products import EVERYTHING, Aspect, Product, iter_items
from encoders.raw_products import shown
from moonrec.nearest import top_k
from moonrec.tables import Table

ITEM_VIEW = EVERYTHING - {Aspect.CATEGORY, Aspect.ATTRIBUTES}
_LABELS_AT_ONCE = 16_384
NOTHING = -1


def predict(items: Table, worker: WorkingEncoder, sets: Sequence[LabelSet]) -> list[np.ndarray]:
    """Per set the label (J,) whose words are nearest to each item; -1 for items that show nothing."""
    labels = [_encoded(one, worker) for one in sets]
    found = [np.full(len(one.item_J), NOTHING) for one in sets]
    hidden = ([shown(product, ITEM_VIEW) for product in products] for products in iter_items(items))
    first = 0
    for shard in worker.shards(hidden, items, "catalogue without labels"):
        vectors_NE, empty_N = worker.vectors(shard, ITEM_VIEW)
        for one, labels_KE, predicted_J in zip(sets, labels, found, strict=True):
            part = slice(*np.searchsorted(one.item_J, (first, first + len(shard))))
            row_n = one.item_J[part] - first
            nearest_n = _nearest(vectors_NE[row_n], labels_KE)
            predicted_J[part] = np.where(empty_N[row_n], NOTHING, nearest_n)
        first += len(shard)
    return found


def scores(
    labels: LabelSet, predicted_J: np.ndarray, among_J: np.ndarray | None = None
) -> dict[str, Any] | None:
    """Accuracy, precision, recall and F1 of the items that show anything; None if none of them does.

    `among_J` chooses some of the set's items; by default all count.
    Macro averages are over the classes that these items have; the weighted ones count a class by its items.
    `majority` is the accuracy of naming the commonest class always.
    """
    from sklearn.metrics import precision_recall_fscore_support

    among_J = np.ones(len(predicted_J), bool) if among_J is None else among_J
    judged = among_J & (predicted_J != NOTHING)
    if not judged.any():
        return None
    right, said = labels.class_J[judged], predicted_J[judged]
    classes, counts = np.unique(right, return_counts=True)
    values: dict[str, Any] = {"accuracy": float(np.mean(right == said))}
    for average, ending in (("macro", ""), ("weighted", "_weighted")):
        found = precision_recall_fscore_support(right, said, labels=classes, average=average, zero_division=0)
        values |= {
            f"{name}{ending}": float(value)
            for name, value in zip(("precision", "recall", "f1"), found[:3], strict=True)
        }
    return values | {
        "majority": float(counts.max() / counts.sum()),
        "classes": len(labels.labels),
        "items": len(right),
        "items_without_content": int((among_J & ~judged).sum()),
        "items_of_rare_values": labels.unlisted,
    }


def _encoded(labels: LabelSet, worker: WorkingEncoder) -> np.ndarray:
    """Vectors (K, E) of the labels' words."""
    products = [Product(label, None, ((labels.aspect, label),)) for label in labels.labels]
    shards = worker.shards([products], None, "labels")
    return np.concatenate([worker.vectors(shard, EVERYTHING)[0] for shard in shards])


def _nearest(vectors_nE: np.ndarray, labels_KE: np.ndarray) -> np.ndarray:
    if not len(vectors_nE):
        return np.zeros(0, np.int64)
    rows = min(_LABELS_AT_ONCE, len(labels_KE))
    return top_k(vectors_nE, lambda: iter([labels_KE]), 1, block_rows=rows)[1][:, 0]
