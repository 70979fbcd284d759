"""Options of next-token training on product questions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NextTokenConfig:
    """How long, how fast and in what portions to train.

    Attributes:
        epochs: at most.
        questions_per_epoch: over all processes; an item is asked at most four times in an epoch.
        batch_size: questions per optimizer step and process.
        micro_batch: questions of one process that are in memory at a time; changes no result.
        learning_rate: the highest; it rises over the first 3 % of all steps and falls along a cosine to 0.
            What is pretrained learns at a tenth of it (`MllmEncoder.parameter_groups`).
        patience: stop after so many epochs without a better loss on held-out products.
        seed: of everything random.
    """

    epochs: int = 3
    questions_per_epoch: int = 100_000
    batch_size: int = 64
    micro_batch: int = 8
    learning_rate: float = 1e-4
    patience: int = 1
    seed: int = 0
