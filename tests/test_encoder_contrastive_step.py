"""A training step: InfoNCE, and a spring that holds vectors to where they started."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoder_helpers import busy_encoder, random_features

from encoders.contrastive_step import KEEP_WEIGHT, ContrastiveStep

ANCHORS, POSITIVES = np.array([0, 4, 5, 6]), np.array([10, 11, 12, 16])
GROUPS, NONE = [torch.arange(4)], torch.full((4,), -1)


def test_at_the_start_the_loss_is_infonce_alone_and_then_grows_with_the_distance_moved() -> None:
    features, encoder = random_features(24), busy_encoder()
    step = ContrastiveStep(encoder)
    anchors, positives = features.gather(ANCHORS), features.gather(POSITIVES)
    with torch.no_grad():
        start_a, start_p = encoder(anchors), encoder(positives)
        loss = step(anchors, positives, start_p, GROUPS, NONE, None)
        torch.testing.assert_close(loss, step.loss(start_a, start_p, *GROUPS))
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        a, p = encoder(anchors), encoder(positives)
        moved = 1 - (p * start_p).sum(1).mean()
        assert float(moved) > 0.01
        expected = step.loss(a, p, *GROUPS) + KEEP_WEIGHT * moved
        torch.testing.assert_close(step(anchors, positives, start_p, GROUPS, NONE, None), expected)


def test_hidden_modalities_follow_the_generator_given() -> None:
    features, step = random_features(60), ContrastiveStep(busy_encoder())
    batch, groups = features.gather(np.arange(0, 60, 6)), [torch.arange(10)]
    with torch.no_grad():
        start_PE = step.encoder(batch)
        one, same, other, shown = (
            float(step(batch, batch, start_PE, groups, groups[0], seed and np.random.default_rng(seed)))
            for seed in (1, 1, 2, None)
        )
    assert one == same
    assert one != pytest.approx(other)
    assert one != pytest.approx(shown)
