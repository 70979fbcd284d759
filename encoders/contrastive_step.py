"""One training step of post-training: two sides of a pair through the encoder, one loss.

Shapes: P pairs, E embedding width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from encoders.compact import CompactEncoder
from encoders.features import FeatureBatch
from encoders.infonce import InfoNCE
from encoders.raw_batches import RawBatch, run_towers
from encoders.sampling import drop_modalities

# How strongly vectors are held to where they started. Without it an epoch of noisy event pairs cost a real
# image search 9 points of hit rate at 1, with it under 3, for most of the gain on clicks (our measurement).
KEEP_WEIGHT = 0.5


class ContrastiveStep(nn.Module):
    """Encoder and loss as one module, so that data parallelism sees a single forward.

    The loss is InfoNCE plus `KEEP_WEIGHT` times the mean cosine distance to the vectors of the encoder as it
    was when training began (ours: behaviour refines what the pretrained towers know, it should not erase it).
    """

    def __init__(self, encoder: CompactEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss = InfoNCE()
        # In a list, so that it is neither trained, nor moved by data parallelism, nor saved.
        self._start = [copy.deepcopy(encoder).requires_grad_(False).eval()]

    def forward(
        self,
        anchors: FeatureBatch | RawBatch,
        positives: FeatureBatch | RawBatch,
        groups_P: Sequence[Tensor],
        rng: np.random.Generator | None,
    ) -> Tensor:
        """The loss of a batch; with `rng`, some anchors are shown in one modality only."""
        anchor_features, positive_features = self._features(anchors), self._features(positives)
        if rng is not None:
            anchor_features = drop_modalities(anchor_features, rng)
        anchors_PE, positives_PE = self.encoder(anchor_features), self.encoder(positive_features)
        drift = self._drift(anchor_features, anchors_PE) + self._drift(positive_features, positives_PE)
        return self.loss(anchors_PE, positives_PE, *groups_P) + KEEP_WEIGHT * drift

    def _drift(self, features: FeatureBatch, vectors_PE: Tensor) -> Tensor:
        with torch.no_grad():
            start_PE = self._start[0](features)
        return 1 - (vectors_PE * start_PE).sum(1).mean()

    def _features(self, batch: FeatureBatch | RawBatch) -> FeatureBatch:
        if isinstance(batch, FeatureBatch):
            return batch
        assert self.encoder.towers is not None
        return run_towers(self.encoder.towers, batch)
