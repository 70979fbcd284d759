"""What post-training minimises: each anchor must find its positive among all negatives that can be had.

Shapes: P pairs and H hard negatives of this process, E embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encoders.objective.candidates import Batch, candidates_of, gather_batch
from encoders.objective.circle_loss import CircleLoss
from encoders.objective.config import ObjectiveConfig
from encoders.objective.infonce import InfoNCE
from encoders.objective.labels import ItemLabels, PairLabels
from encoders.objective.negative_queue import NegativeQueue
from encoders.objective.two_way import Asked, two_way_losses
from moonrec.gathering import world_size


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
            anchors_PE, positives_PE = at_least_float32(anchors_PE), at_least_float32(positives_PE)
            hard_HE = anchors_PE[:0] if hard_HE is None else at_least_float32(hard_HE)
            hard = ItemLabels.nobody(len(hard_HE), hard_HE.device) if hard_labels is None else hard_labels
            local = Batch(positives_PE, hard_HE, pairs, hard)
            batch = gather_batch(local) if self.config.spatial else local
            asked = Asked.of(anchors_PE, torch.arange(len(pairs), device=anchors_PE.device), batch)
            candidates = candidates_of(pairs, batch, queue)
            total = two_way_losses(
                self.loss, self.config.dims, asked, positives_PE, pairs, batch, candidates
            ).sum()
            total = total + self.config.steeper() * self.config.keep_weight * drift(positives_PE, start_PE)
        if not len(batch.pairs):
            raise ValueError("a batch without pairs")
        # Processes may hold different numbers of pairs: each pair of the whole batch counts alike.
        return total * (world_size() if self.config.spatial else 1) / len(batch.pairs)

    def temperature(self) -> float | None:
        """The temperature that InfoNCE has learnt so far."""
        return 1 / float(self.loss.scale().detach()) if isinstance(self.loss, InfoNCE) else None


def drift(positives_PE: Tensor, start_PE: Tensor | None) -> Tensor:
    """Sum over the positives of their cosine distance from where they started; 0 where that is not known."""
    if start_PE is None:
        return positives_PE.new_zeros(())
    return (1 - (positives_PE * start_PE.to(positives_PE)).sum(1)).sum()


def at_least_float32(x: Tensor) -> Tensor:
    """In float32, or as it is in float64: eight bits leave logits too coarse to learn from."""
    return x if x.dtype == torch.float64 else x.float()
