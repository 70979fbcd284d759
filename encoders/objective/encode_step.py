"""The encoder as data parallelism wraps it: one forward for all sides of a step.

Shapes: B products of all batches of a call, E embedding width, X routed experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from encoders.encoder import Encoder, ProductBatch
from encoders.guided_moe import RouterStatistics


class EncodeStep(nn.Module):
    """Several batches in, their vectors and the routers' statistics out.

    Anchors, positives and hard negatives differ in what they show and come as batches of their own. Data
    parallelism wants one forward before each backward: this one.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batches: Sequence[ProductBatch]) -> tuple[Tensor, list[RouterStatistics]]:
        """Vectors (B, E) of all batches, one after the other, and statistics per mixture of experts."""
        vectors, statistics = [], []
        for batch in batches:
            vectors.append(self.encoder(batch))
            statistics.append([layer.statistics for layer in self.encoder.guided_experts()])
        return torch.cat(vectors), [_sum(layer) for layer in zip(*statistics, strict=True)]


def _sum(batches: Sequence[RouterStatistics | None]) -> RouterStatistics:
    """Statistics of several forwards of one layer as those of one."""
    names = [field.name for field in fields(RouterStatistics)]
    return RouterStatistics(**{name: sum(getattr(batch, name) for batch in batches) for name in names})
