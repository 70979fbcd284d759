"""The encoder as data parallelism wraps it: one forward for all sides of a step.

Shapes: B products of all batches of a call, E embedding width, R routed experts.
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

    With `with_gates` each product's gates follow its vector, so that whatever carries vectors and their
    gradients (data parallelism, gradient caching) carries those of the gates too.

    Raises:
        ValueError: `with_gates`, but the encoder has no experts.
    """

    def __init__(self, encoder: Encoder, with_gates: bool = False) -> None:
        super().__init__()
        if with_gates and not encoder.guided_experts():
            raise ValueError("an encoder without experts has no gates")
        self.encoder = encoder
        self.with_gates = with_gates

    def forward(self, batches: Sequence[ProductBatch]) -> tuple[Tensor, list[RouterStatistics]]:
        """Vectors of all batches, one after the other, and statistics per mixture of experts.

        The vectors are (B, E); with `with_gates` they are (B, E + R), whose last R columns are `gate_BR`,
        averaged over the layers.
        """
        vectors, statistics = [], []
        for batch in batches:
            vectors_BE, layers = self._encode(batch)
            vectors.append(vectors_BE)
            statistics.append(layers)
        return torch.cat(vectors), [_joined(layer) for layer in zip(*statistics, strict=True)]

    def _encode(self, batch: ProductBatch) -> tuple[Tensor, list[RouterStatistics]]:
        mixtures = self.encoder.guided_experts()
        # A batch may leave a mixture out (pictures alone, where only the text tower has experts): it must not
        # be taken for the one before.
        for mixture in mixtures:
            mixture.statistics = None
        vectors_BE = self.encoder(batch)
        statistics = [
            mixture.statistics or mixture.statistics_of_nothing(len(vectors_BE)) for mixture in mixtures
        ]
        if not self.with_gates:
            return vectors_BE, statistics
        gate_BR = torch.stack([layer.gate_BR for layer in statistics]).mean(0)
        return torch.cat([vectors_BE, gate_BR.to(vectors_BE.dtype)], 1), statistics


def _joined(batches: Sequence[RouterStatistics]) -> RouterStatistics:
    """Statistics of several forwards of one layer as those of one."""
    counted = [field.name for field in fields(RouterStatistics) if field.name != "gate_BR"]
    sums = {name: sum(getattr(batch, name) for batch in batches) for name in counted}
    return RouterStatistics(**sums, gate_BR=torch.cat([batch.gate_BR for batch in batches]))
