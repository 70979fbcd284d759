"""Where training stands: enough to go on after a kill, to the same bits, and the best weights so far.

Training passes through rounds. A round begins with the best weights of the one before; those are kept apart
(`round.pt`), since what the round trains on (its cleaned pairs, where its vectors started) is computed from
them again after a resume. After every epoch `state.pt` is replaced, atomically.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from encoders.objective.negative_queue import NegativeQueue
from encoders.validation_recall import score
from moonrec.atomic import atomic_file

# Ranks that shrink by less than 1 % an epoch are not worth the epoch. Ours.
_LEAST_GAIN = 0.01


@dataclass
class RoundState:
    """Epoch counters of one round; validation recall at its start and at its best, with the best weights.

    `experts` counts the tokens of each aspect that each expert has seen (`ExpertUse.counts`); `filtered` says
    of how many pairs the sample filter weighted how many down, and in which epoch.
    """

    epoch: int = 0
    stale: int = 0
    start_recall: dict[str, float] = field(default_factory=dict)
    best_recall: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    experts: Tensor | None = None
    filtered: dict[str, int] = field(default_factory=dict)
    pairs_seen: int = 0
    seconds: float = 0.0

    @classmethod
    def start(cls, recall: dict[str, float], encoder: nn.Module) -> RoundState:
        """Before the first step; if no epoch beats this, the encoder stays as it was."""
        return cls(start_recall=recall, best_recall=recall, best=weights_of(encoder))

    def record(self, recall: dict[str, float], encoder: nn.Module) -> None:
        """Note an epoch's validation recall; without validation pairs the last epoch is the best."""
        gain = score(recall, self.start_recall) - score(self.best_recall, self.start_recall)
        if not recall or gain > _LEAST_GAIN:
            self.best_recall, self.best_epoch, self.stale = recall, self.epoch, 0
            self.best = weights_of(encoder)
        else:
            self.stale += 1


@dataclass(frozen=True)
class Trained:
    """What an epoch changes: encoder and objective, the optimizer of each, the queue of negatives."""

    encoder: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    objective_optimizer: torch.optim.Optimizer | None
    queue: NegativeQueue

    def state(self) -> dict[str, Any]:
        """Everything of it as plain tensors, whole on the main process however it is sharded."""
        return {
            "encoder": weights_of(self.encoder),
            "objective": self.objective.state_dict(),
            "optimizer": optimizer_of(self.encoder, self.optimizer),
            "objective_optimizer": own.state_dict() if (own := self.objective_optimizer) else None,
            "queue": self.queue.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        put_weights(self.encoder, saved["encoder"])
        self.objective.load_state_dict(saved["objective"])
        put_optimizer(self.encoder, self.optimizer, saved["optimizer"])
        if self.objective_optimizer is not None:
            self.objective_optimizer.load_state_dict(saved["objective_optimizer"])
        self.queue.load_state_dict(saved["queue"])


class Checkpoint:
    """The folder in which training notes where it stands; only the main process writes.

    Args:
        folder: the run's checkpoint folder, read by every process.
        writes: whether this process is the one that writes.
    """

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self._folder = folder
        self._writes = writes

    def begin_round(self, number: int, done: list[dict[str, Any]], encoder: nn.Module, lines: int) -> None:
        """Note that a round begins, from the encoder's weights as they are."""
        values = {"round": number, "done": done, "weights": weights_of(encoder), "lines": lines}
        self._write("round.pt", values)
        if self._writes:
            (self._folder / "state.pt").unlink(missing_ok=True)

    def round(self) -> dict[str, Any] | None:
        """What `begin_round` noted last: round, done, weights, lines; None where nothing began."""
        return self._read("round.pt")

    def save(self, number: int, state: RoundState, trained: Trained, lines: int) -> None:
        """Note the end of an epoch; `lines` is the length of the run's history."""
        values = {"round": number, "state": vars(state), "trained": trained.state(), "lines": lines}
        self._write("state.pt", values)

    def load(self, number: int) -> dict[str, Any] | None:
        """What `save` noted last in this round: state, trained, lines; None where no epoch ended."""
        saved = self._read("state.pt")
        return saved if saved is not None and saved["round"] == number else None

    def note(self, name: str, lines: list[str]) -> Path:
        """Leave a text beside the checkpoint, on whichever process; returns where."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self._folder / name) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return self._folder / name

    def _write(self, name: str, values: dict[str, Any]) -> None:
        if self._writes:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._folder / name) as temporary:
                torch.save(values, temporary)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self._folder / name
        return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def _whole() -> StateDictOptions:
    """States whole and on the CPU of the main process, and from there to all."""
    several = torch.distributed.is_initialized()
    return StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=several)


def weights_of(encoder: nn.Module) -> dict[str, Tensor]:
    """The encoder's weights on the CPU, detached from what training does next, whole on the main process."""
    weights = get_model_state_dict(encoder, options=_whole())
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def put_weights(encoder: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load what `weights_of` gave."""
    set_model_state_dict(encoder, dict(weights), options=_whole())


def optimizer_of(encoder: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by the names of the encoder's weights, whole on the main process."""
    return get_optimizer_state_dict(encoder, optimizer, options=_whole())


def put_optimizer(encoder: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `optimizer_of` gave."""
    set_optimizer_state_dict(encoder, optimizer, state, options=_whole())
