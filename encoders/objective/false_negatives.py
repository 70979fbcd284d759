"""Which candidates of an anchor are no negatives of it.

Same-category hard negatives, batches of popular items and queues are full of false negatives: other SKUs of
the item that was found, listings with the same text, and what the same user took in another pair.

Shapes: P anchors of this process, N pairs whose positives are candidates, C further candidates, U users, K
pairs with a known user.
"""

from __future__ import annotations

import torch
from torch import Tensor

from encoders.objective.labels import ItemLabels, PairLabels, same_item


def false_among_pairs(anchors: PairLabels, pairs: PairLabels) -> Tensor:
    """(P, N) mask of positives of other pairs that are no negatives of an anchor.

    They are none if both pairs found the same item, or are of one user, or if the anchor is the found item,
    or if both anchors are the same item. An anchor's own pair is masked too where it stands among `pairs`.
    """
    false_PN = same_item(anchors.positives, pairs.positives)
    false_PN |= same_item(anchors.own, pairs.positives)
    false_PN |= same_item(anchors.own, pairs.own)
    user_P = anchors.user_P.masked_fill(anchors.user_P < 0, -2)
    return false_PN.logical_or_(user_P[:, None] == pairs.user_P[None, :])


def false_among_items(anchors: PairLabels, pairs: PairLabels, items: ItemLabels) -> Tensor:
    """(P, C) mask of hard negatives or queued items that are no negatives of an anchor.

    They are none if they are what the anchor found, or what it is, or what its user took in one of `pairs`.
    """
    false_PC = same_item(anchors.positives, items)
    false_PC |= same_item(anchors.own, items)
    return false_PC.logical_or_(_taken_by_the_same_user(anchors, pairs, items))


def _taken_by_the_same_user(anchors: PairLabels, pairs: PairLabels, items: ItemLabels) -> Tensor:
    known = pairs[(pairs.user_P >= 0).nonzero()[:, 0]]
    taken_KC = same_item(known.positives, items).logical_or_(same_item(known.own, items))
    users_U, user_K = torch.unique(known.user_P, return_inverse=True)
    # A table per user, not a product of (P, K) and (K, C): that would cost more than the loss itself. Its
    # last row is for anchors of nobody.
    taken_UC = taken_KC.new_zeros(len(users_U) + 1, len(items))
    pair, item = taken_KC.nonzero(as_tuple=True)
    taken_UC[user_K[pair], item] = True
    row_P = torch.searchsorted(users_U, anchors.user_P).masked_fill(anchors.user_P < 0, len(users_U))
    return taken_UC[row_P]
