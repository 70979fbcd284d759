"""What one round of contrastive training is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from encoders.hard_negatives import HardNegatives
from encoders.joint_round import JointRound
from encoders.objective.config import ObjectiveConfig
from encoders.pairs import PairSource
from encoders.sampling import PlannedBatch
from encoders.validation_recall import Validate


@dataclass(frozen=True)
class Round:
    """One round of training.

    Attributes:
        name: what history and report call it.
        sources: pairs to train on.
        plan: the batches of an epoch, by its number.
        objective: loss and negatives.
        validate: the held-out recall that early stopping looks at (`validation_recall.score`).
        learning_rate, epochs, patience: epochs at most, and how many without gain before it stops.
        hard: per source, draws hard negatives for the positives of a batch; empty for none.
        hard_count: how many for each pair.
        joint: what makes the round joint; None where each batch shows one combination of modalities.
        facts: what else the metrics say of this round.
    """

    name: str
    sources: Sequence[PairSource]
    plan: Callable[[int], list[PlannedBatch]]
    objective: ObjectiveConfig
    validate: Validate
    learning_rate: float
    epochs: int
    patience: int
    hard: Sequence[HardNegatives] = ()
    hard_count: int = 0
    joint: JointRound | None = None
    facts: dict[str, Any] = field(default_factory=dict)
