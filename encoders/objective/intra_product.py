"""Intra-product alignment: an item's picture and its words belong together (MOON2.0, arXiv 2511.12449).

Shapes: J items that have both, D a prefix of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encoders.objective.contrast import Logits, contrast
from encoders.objective.labels import ItemLabels, same_item
from encoders.objective.two_way import prefix


@dataclass(frozen=True)
class OwnSides:
    """Items by their picture alone and by their words alone: positives and hard negatives of a batch.

    Attributes:
        images_JE, texts_JE: unit vectors of the two sides of each item.
        labels: who they are.
    """

    images_JE: Tensor
    texts_JE: Tensor
    labels: ItemLabels


def intra_product_loss(logits: Logits, dims: Sequence[int], sides: OwnSides) -> Tensor:
    """The mean loss of the items: a picture must find its own words, and words their own picture.

    The paper's negative is the text of the triplet's other item: of the negative for the positive and the
    other way round. Ours: of all other items of the batch, both kinds, and in both directions; other SKUs of
    an item, and items with the same words, are no negatives of it. 0 with fewer than two items.

    Args:
        logits: `InfoNCE`, `CircleLoss`.
        dims: the prefixes of the vectors, largest first.
        sides: of this process's items; an item that stands there twice counts twice.
    """
    total = sides.images_JE.new_zeros(())
    if len(sides.labels) < 2:
        # What went into the encoder must come back from it: processes wait for each other's gradients.
        return total + 0 * (sides.images_JE.sum() + sides.texts_JE.sum())
    excluded_JJ = same_item(sides.labels, sides.labels)
    own_J = torch.arange(len(sides.labels), device=excluded_JJ.device)
    for dim in dims:
        images_JD, texts_JD = prefix(sides.images_JE, dim), prefix(sides.texts_JE, dim)
        total = total + contrast(logits, images_JD, texts_JD, excluded_JJ, own_J).mean()
        total = total + contrast(logits, texts_JD, images_JD, excluded_JJ, own_J).mean()
    return total / (2 * len(dims))
