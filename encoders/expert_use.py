"""Which experts saw the tokens of which aspect, summed over training.

Shapes: L mixtures of experts, A aspects, X experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from encoders.guided_moe import RouterStatistics
from encoders.products import Aspect


class ExpertUse:
    """Counts tokens per aspect and expert.

    Attributes:
        counts: (L, A, X) of this process so far, None before the first step or without experts.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None

    def add(self, chunks: Sequence[Sequence[RouterStatistics]]) -> None:
        """Count a step's tokens; `chunks` holds per chunk and mixture of experts its statistics."""
        for layers in chunks:
            if not layers:
                continue
            counts_LAX = torch.stack([layer.aspect_counts_AX for layer in layers]).cpu().double()
            self.counts = counts_LAX if self.counts is None else self.counts + counts_LAX

    def shares(self) -> dict[str, list[float]]:
        """Per aspect the share of its tokens that each expert saw, over all layers; {} without experts."""
        if self.counts is None:
            return {}
        counts_AX = self.counts.sum(0)
        totals_A = counts_AX.sum(1)
        return {
            aspect.name.lower(): (counts_AX[aspect] / totals_A[aspect]).tolist()
            for aspect in Aspect
            if totals_A[aspect]
        }
