"""The training loop of two towers: epochs until validation recall stops growing.

After each epoch rank 0 encodes the catalogue and some held-out requests, finds their recall among all items,
and looks whether the vectors have collapsed. The best weights are kept.

Legend: B rows of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ctr.data.row_order import RowOrder
from ctr.data.unknown_ids import UnknownIds
from ctr.engines.checkpoint import LoopState, Stage
from ctr.engines.engine import Trainable
from ctr.engines.ranks import together
from ctr.retrieval.batch import training_batch
from ctr.retrieval.config import RetrievalConfig
from ctr.retrieval.data import RetrievalData
from ctr.retrieval.engine import BuildBatch
from ctr.retrieval.negatives import Negatives
from moonrec.errors import UserError
from moonrec.progress import progress

RECALL = "recall@100"
# Breaks ties, which a catalogue of few hundred items has: there nearly everything is among the first hundred.
_TIES = "mrr"
# Between two epochs so many times a checkpoint may be written, and a line of the log is.
_WINDOWS = 4


class RetrievalEngine(Trainable, Protocol):
    """An engine whose weights can be had whole."""

    def state_dict(self) -> dict[str, Tensor]:
        """All weights as plain CPU tensors; on rank 0 only (elsewhere an empty dict)."""


@dataclass(frozen=True)
class Training:
    """One seed's training.

    Attributes:
        engine: makes the steps.
        data: what is learnt from.
        config: the options.
        seed: of the order of rows and of all draws.
        stage: where checkpoints are.
        validate: measures weights, on rank 0: `RECALL`, `mrr` and what else the log is to tell.
        log: called with the values of a line of `history.jsonl`, on rank 0.
    """

    engine: RetrievalEngine
    data: RetrievalData
    config: RetrievalConfig
    seed: int
    stage: Stage
    validate: Callable[[dict[str, Tensor]], dict[str, float]]
    log: Callable[..., None] | None

    def run(self) -> LoopState:
        """Train, from the last checkpoint on; the engine holds the best weights when this returns.

        Raises:
            UserError: the loss is not finite any more, or there are fewer rows than processes.
        """
        plan = self.plan()
        state = self.stage.resume(self.engine)
        length = plan.steps_per_epoch
        windows = min(_WINDOWS, length)
        for epoch in range(self.config.epochs):
            for window in range(windows):
                end = epoch * length + length * (window + 1) // windows
                if state.stopped or end <= state.step:
                    continue
                line = self._steps(plan, state, end)
                if window == windows - 1:
                    line |= self._check(state)
                if self.log is not None and self.engine.ranks.rank == 0:
                    self.log(**line)
                self.stage.save_if_due(self.engine, state)
        if state.best is not None and state.best["step"] != state.step:
            self.stage.restore_best(self.engine, state)
        return state

    def plan(self) -> RowOrder:
        """Which rows make which step.

        Raises:
            UserError: there are fewer rows than processes.
        """
        ranks, rows = self.engine.ranks, len(self.data.train)
        assert self.config.batch_size is not None
        plan = RowOrder(
            rows,
            epochs=self.config.epochs,
            batch_size=self.config.batch_size,
            seed=(self.seed,),
            processes=max(2, ranks.size),
        )
        if plan.steps == 0 or self.config.batch_size < ranks.size:
            raise UserError(
                f"steps of {min(rows, self.config.batch_size)} rows cannot be shared by {ranks.size} "
                "processes, or hold no negatives; start fewer, or give more events"
            )
        return plan

    def _steps(self, plan: RowOrder, state: LoopState, end: int) -> dict[str, Any]:
        """Make the steps up to `end`; a line of the log."""
        started, rows, losses, firsts = time.perf_counter(), 0, [], []
        steps = self.engine.steps(self._batches(plan, state.step, end))
        epoch = plan.epoch(state.step)
        for loss, first_B, _ in progress(steps, f"epoch {epoch + 1}", end - state.step):
            rows += plan.rows_of(state.step)
            losses.append(loss.reshape(1).cpu())
            firsts.append(first_B.sum().reshape(1).cpu())
            state.step += 1
        ranks = self.engine.ranks
        mean = torch.cat(losses).mean().reshape(1)
        every_loss, every_first = ranks.gather(mean), ranks.gather(torch.cat(firsts).sum().reshape(1))
        seconds = time.perf_counter() - started
        state.seconds += seconds
        state.samples += rows
        loss_now = float(torch.cat(every_loss).mean()) if every_loss else 0.0
        with together(ranks):
            if not np.isfinite(loss_now):
                raise UserError(
                    "the loss is not finite any more; lower --learning-rate or --sparse-learning-rate"
                )
        return {
            "step": state.step,
            "epoch": epoch,
            "samples": state.samples,
            "loss": loss_now,
            "first": float(sum(map(float, every_first))) / max(1, rows),
            "samples_per_second": round(rows / seconds),
        }

    def _check(self, state: LoopState) -> dict[str, float]:
        """Validate, and keep the weights if they are the best so far."""
        weights = self.engine.state_dict()
        ranks = self.engine.ranks
        found: dict[str, float] = {}
        with together(ranks):
            if ranks.rank == 0:
                found = self.validate(weights)
        found = ranks.from_first(found)
        quality = {name: found[name] for name in (RECALL, _TIES)}
        if state.best is None or list(quality.values()) > [state.best[name] for name in quality]:
            state.best = {**quality, "step": state.step}
            state.stale = 0
            self.stage.keep_as_best(self.engine, state)
        else:
            state.stale += 1
            state.stopped = state.stale >= self.config.patience
        return {f"validation_{name}" if name in quality else name: value for name, value in found.items()}

    @cached_property
    def _negatives(self) -> Negatives:
        data = self.data
        return Negatives.of(data.train.item_R, data.taken_C, self.config.uniform_share, self.seed)

    def _batches(self, plan: RowOrder, first: int, end: int) -> Iterator[list[BuildBatch]]:
        share, ranks = self.config.unknown_share, self.engine.ranks
        negatives = self._negatives
        for step, rows_B in enumerate(plan.batches(first, end), start=first):
            yield [
                partial(
                    training_batch,
                    self.data.train,
                    rows_B,
                    self.data.items,
                    negatives,
                    step=step,
                    mask_history=self.data.mask_history,
                    part=ranks.rank,
                    parts=ranks.size,
                    local=self.engine.local,
                    unknown=UnknownIds(share, self.seed, step) if share else None,
                )
            ]
