"""What post-training minimises: each anchor must find its positive among all negatives that can be had.

Shapes: P pairs and H hard negatives of this process, N pairs of all processes, E embedding width, D a prefix
of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encoders.objective.candidates import Batch, candidates_of, gather_batch
from encoders.objective.circle_loss import CircleLoss
from encoders.objective.config import ObjectiveConfig
from encoders.objective.contrast import contrast
from encoders.objective.false_negatives import false_among_pairs
from encoders.objective.gathering import world_size
from encoders.objective.infonce import TEMPERATURE, InfoNCE
from encoders.objective.labels import ItemLabels, PairLabels
from encoders.objective.negative_queue import NegativeQueue


class Objective(nn.Module):
    """The contrastive loss of MOON (https://arxiv.org/abs/2508.11999, https://arxiv.org/abs/2511.11305).

    Each anchor must find its positive among the positives of the batch, the hard negatives of all anchors
    and the queue; each positive must find its anchor among the anchors of the batch; the two directions
    count alike. With `spatial` the batch is that of all processes. The loss is that of every prefix of the
    vector in `config.dims`, scaled to unit length, on average (Matryoshka,
    https://arxiv.org/abs/2205.13147). To it comes `keep_weight` times the mean cosine distance of the
    positives from where they started.

    The mean over the processes of the loss, and of its gradients, is the loss of one process with the whole
    batch: data parallelism averages the encoder's gradients, `average_gradients` those of this module.
    Without `spatial` that mean has local negatives.

    Example:
        >>> objective = Objective(ObjectiveConfig("infonce", dims=(256, 128, 64)))
        >>> loss = objective(anchors_PE, positives_PE, None, pairs)
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.loss: InfoNCE | CircleLoss
        self.loss = (
            InfoNCE() if config.loss == "infonce" else CircleLoss(config.circle_margin, config.circle_scale)
        )

    def forward(
        self,
        anchors_PE: Tensor,
        positives_PE: Tensor,
        hard_HE: Tensor | None,
        pairs: PairLabels,
        hard_labels: ItemLabels | None = None,
        start_PE: Tensor | None = None,
        queue: NegativeQueue | None = None,
    ) -> Tensor:
        """The loss of a batch, in float32 (or in float64 if the vectors are), whatever autocast says.

        Args:
            anchors_PE, positives_PE: unit vectors of the two sides of the pairs.
            hard_HE: unit vectors of hard negatives; each serves all anchors.
            pairs: who the pairs are.
            hard_labels: who the hard negatives are; unknown ones exclude nothing.
            start_PE: the positives' vectors when training began; without them nothing is kept.
            queue: items of past batches, for `NegativeQueue.push` after the step.

        Raises:
            ValueError: there is no pair.
        """
        # At a scale of 14 and more, eight bits leave the logits too coarse to learn from.
        with torch.autocast(anchors_PE.device.type, enabled=False):
            anchors_PE, positives_PE = _at_least_float32(anchors_PE), _at_least_float32(positives_PE)
            hard_HE = anchors_PE[:0] if hard_HE is None else _at_least_float32(hard_HE)
            hard = ItemLabels.nobody(len(hard_HE), hard_HE.device) if hard_labels is None else hard_labels
            local = Batch(anchors_PE, positives_PE, hard_HE, pairs, hard)
            batch = gather_batch(local) if self.config.spatial else local
            total = self._contrast(local, batch, queue)
            if start_PE is not None and self.config.keep_weight:
                drift_P = 1 - (positives_PE * start_PE.to(positives_PE)).sum(1)
                total = total + self._keep_weight() * drift_P.sum()
        if not len(batch.pairs):
            raise ValueError("a batch without pairs")
        # Processes may hold different numbers of pairs: each pair of the whole batch counts alike.
        return total * (world_size() if self.config.spatial else 1) / len(batch.pairs)

    def temperature(self) -> float | None:
        """The temperature that InfoNCE has learnt so far."""
        return 1 / float(self.loss.scale().detach()) if isinstance(self.loss, InfoNCE) else None

    def _keep_weight(self) -> float:
        """The weight against this loss: circle loss is steeper than InfoNCE by its scale times the
        temperature that InfoNCE starts at, and would otherwise drown what holds the vectors (ours)."""
        steeper = self.config.circle_scale * TEMPERATURE if self.config.loss == "circle" else 1.0
        return self.config.keep_weight * steeper

    def _contrast(self, local: Batch, batch: Batch, queue: NegativeQueue | None) -> Tensor:
        """Sum over the local pairs of both directions' mean."""
        candidates = candidates_of(local.pairs, batch, queue)
        excluded_PN = false_among_pairs(batch.pairs, local.pairs).T
        own_P = batch.first + torch.arange(len(local.pairs), device=excluded_PN.device)
        total = local.anchors_NE.new_zeros(())
        for dim in self.config.dims:
            anchors_PD, positives_PD, anchors_ND, candidates_CD = (
                prefix(x, dim)
                for x in (local.anchors_NE, local.positives_NE, batch.anchors_NE, candidates.vectors_CE)
            )
            total = total + contrast(self.loss, anchors_PD, candidates_CD, candidates.excluded_PC, own_P)
            total = total + contrast(self.loss, positives_PD, anchors_ND, excluded_PN, own_P)
        return total / (2 * len(self.config.dims))


def prefix(x_NE: Tensor, dim: int) -> Tensor:
    """The first `dim` columns, scaled to unit length; unit vectors of that width are left alone.

    Raises:
        ValueError: the vectors are shorter.
    """
    if dim > x_NE.shape[1]:
        raise ValueError(f"a prefix of {dim} out of vectors of {x_NE.shape[1]}")
    return x_NE if dim == x_NE.shape[1] else nn.functional.normalize(x_NE[:, :dim], dim=1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
