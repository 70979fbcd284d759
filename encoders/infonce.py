"""InfoNCE over in-batch negatives, with a learnable temperature and false negatives masked.

Shapes: P pairs of one batch, E embedding width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class InfoNCE(nn.Module):
    """Each anchor must find its own positive among the positives of the whole batch, and the other way round.

    The loss of van den Oord et al. (https://arxiv.org/abs/1807.03748) in the symmetric form of CLIP
    (https://arxiv.org/abs/2103.00020). Pairs that share a group (the same item, SKUs of one product, one
    user's behaviour) are not each other's negatives: same-category batches are full of such false negatives.

    Example:
        >>> loss = InfoNCE()(anchors_PE, positives_PE, product_P)
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(
        self, anchors_PE: Tensor, positives_PE: Tensor, *groups_P: Tensor, own_P: Tensor | None = None
    ) -> Tensor:
        """Mean loss of a batch.

        Args:
            anchors_PE: unit vectors of the queries.
            positives_PE: unit vectors of what was found, row by row.
            groups_P: any number of integer labels; two pairs with an equal label (of at least 0) in any of
                them are not negatives of each other.
            own_P: the anchors' own labels (-1: none) in the terms of the first group: an anchor is not pushed
                away from itself where it stands as another pair's positive.
        """
        # In full precision: at a scale of 14 and more, eight bits leave the logits too coarse to learn from.
        with torch.autocast(anchors_PE.device.type, enabled=False):
            logits_PP = anchors_PE.float() @ positives_PE.float().T * self.scale()
        if groups_P:
            logits_PP = logits_PP.masked_fill(false_negatives(*groups_P, own_P=own_P), -torch.inf)
        target_P = torch.arange(len(logits_PP), device=logits_PP.device)
        forward = nn.functional.cross_entropy(logits_PP, target_P)
        backward = nn.functional.cross_entropy(logits_PP.T, target_P)
        return (forward + backward) / 2

    def scale(self) -> Tensor:
        """One over the temperature, kept between 1 and 100."""
        return self.log_scale.exp().clamp(1, 100)


def false_negatives(*groups_P: Tensor, own_P: Tensor | None = None) -> Tensor:
    """(P, P) mask, off the diagonal, of anchors (rows) and other pairs' positives (columns) that are no
    negatives: the pairs share a group, or the positive is the anchor's own product (`own_P`), or both anchors
    are the same product."""
    shared_PP = torch.zeros(len(groups_P[0]), len(groups_P[0]), dtype=torch.bool, device=groups_P[0].device)
    for group_P in groups_P:
        shared_PP |= (group_P[:, None] == group_P[None, :]) & (group_P[:, None] >= 0)
    if own_P is not None:
        same_PP = (own_P[:, None] == groups_P[0][None, :]) | (own_P[:, None] == own_P[None, :])
        shared_PP |= same_PP & (own_P[:, None] >= 0)
    return shared_PP.fill_diagonal_(False)
