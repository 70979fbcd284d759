"""Where post-training stands: enough to go on after a kill, and the best weights so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from encoders.compact import CompactEncoder
from encoders.infonce import InfoNCE
from encoders.validation_recall import score
from moonrec.atomic import atomic_file

# Ranks that shrink by less than 1 % an epoch are not worth the epoch. Ours.
_LEAST_GAIN = 0.01


@dataclass
class TrainingState:
    """Epoch counters, validation recall at the start, now and at its best, and the best weights."""

    epoch: int
    stale: int
    start_recall: dict[str, float]
    recall: dict[str, float]
    best_recall: dict[str, float]
    best_epoch: int
    best: dict[str, Tensor]
    history_lines: int = 0

    @classmethod
    def start(cls, recall: dict[str, float], encoder: CompactEncoder) -> TrainingState:
        """Before the first step; if no epoch beats this, the untouched encoder is kept."""
        return cls(0, 0, recall, recall, recall, 0, copy_weights(encoder))

    @classmethod
    def resume(
        cls, path: Path, encoder: CompactEncoder, loss: InfoNCE, optimizer: torch.optim.Optimizer
    ) -> TrainingState:
        """Read a checkpoint, and put weights and optimizer back."""
        saved = torch.load(path, map_location="cpu", weights_only=True)
        encoder.load_state_dict(saved["encoder"])
        loss.load_state_dict(saved["loss"])
        optimizer.load_state_dict(saved["optimizer"])
        return cls(**saved["state"])

    def record(self, recall: dict[str, float], encoder: CompactEncoder) -> None:
        """Note an epoch's validation recall; without validation pairs the last epoch is the best."""
        self.recall = recall
        gain = score(recall, self.start_recall) - score(self.best_recall, self.start_recall)
        if not recall or gain > _LEAST_GAIN:
            self.best_recall, self.best_epoch, self.stale = recall, self.epoch, 0
            self.best = copy_weights(encoder)
        else:
            self.stale += 1

    def save(
        self, path: Path, encoder: CompactEncoder, loss: InfoNCE, optimizer: torch.optim.Optimizer, lines: int
    ) -> None:
        """Write a checkpoint, atomically; `lines` is the length of the run's history."""
        self.history_lines = lines
        values = {
            "encoder": encoder.state_dict(),
            "loss": loss.state_dict(),
            "optimizer": optimizer.state_dict(),
            "state": vars(self),
        }
        with atomic_file(path) as temporary:
            torch.save(values, temporary)


def copy_weights(encoder: CompactEncoder) -> dict[str, Tensor]:
    """The encoder's weights on the CPU, detached from what training does next."""
    return {name: value.detach().cpu().clone() for name, value in encoder.state_dict().items()}
