"""Where next-token training stands: enough to go on after a kill, and on disk the best weights so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from encoders.training_state import optimizer_of, put_optimizer, put_weights, weights_of
from moonrec.atomic import atomic_file
from moonrec.runs import Run

# A held-out loss that falls by less than this share in an epoch is not worth the epoch. Ours.
_LEAST_GAIN = 1e-3
_STATE = "state.pt"
_BEST = "best.pt"


@dataclass
class NextTokenState:
    """Counters, held-out losses at the start and at their best, and the folder that keeps the weights.

    The best weights lie on disk and not in memory: a language model may not fit there twice.
    """

    start: dict[str, float]
    best: dict[str, float]
    epoch: int = 0
    best_epoch: int = 0
    stale: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    history_lines: int = 0

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether a killed run left its state in `folder`."""
        return (folder / _STATE).exists()

    @classmethod
    def resume(cls, folder: Path, encoder: nn.Module, optimizer: torch.optim.Optimizer) -> NextTokenState:
        """Read the state of the last whole epoch, and put weights and optimizer back."""
        saved = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        put_weights(encoder, saved["encoder"])
        put_optimizer(encoder, optimizer, saved["optimizer"])
        return cls(**saved["state"])

    def record(self, losses: dict[str, float]) -> bool:
        """Note an epoch's held-out losses; true if its weights are the best ones (always, without any)."""
        better = not losses or losses["loss"] < self.best["loss"] * (1 - _LEAST_GAIN)
        if better:
            self.best, self.best_epoch, self.stale = losses, self.epoch, 0
        else:
            self.stale += 1
        return better

    def save(
        self, folder: Path, encoder: nn.Module, optimizer: torch.optim.Optimizer, run: Run | None
    ) -> None:
        """Write the state, atomically, on the main process (the one with a run); all processes call it."""
        weights = weights_of(encoder)
        moments = optimizer_of(encoder, optimizer)
        if run is None:
            return
        self.history_lines = len(run.history)
        folder.mkdir(parents=True, exist_ok=True)
        if self.best_epoch == self.epoch:
            # First, so that no state names weights that are not there.
            _save(weights, folder / _BEST)
        _save({"encoder": weights, "optimizer": moments, "state": vars(self)}, folder / _STATE)

    def load_best(self, folder: Path, encoder: nn.Module) -> None:
        """Put the best epoch's weights back."""
        put_weights(encoder, torch.load(folder / _BEST, map_location="cpu", weights_only=True))


def _save(values: object, path: Path) -> None:
    with atomic_file(path) as temporary:
        torch.save(values, temporary)
