"""The training loop: one pass over shuffled rows, whichever engine makes the steps.

Predictions are made before the update that learns from them, so in a first epoch they are an honest
validation that costs no row: the log holds the AUC of each window (progressive validation).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr.batch import Batch, build_batch
from ctr.impressions import Impressions
from ctr.model import StepOutput
from moonrec.errors import UserError
from moonrec.metrics import auc
from moonrec.progress import progress

_WINDOWS = 40
_SMALLEST_WINDOW = 8_192
_SCORING_BATCH = 4_096


class Scorer(Protocol):
    """What scoring asks of an engine (ctr/one_process.py, ctr/distributed.py)."""

    rank: int
    world_size: int

    def score(self, batch: Batch) -> Tensor:
        """Logits (B,), on the CPU."""

    def gather(self, value_R: Tensor) -> list[Tensor]:
        """Every process's part of a result, in the order of ranks, on rank 0; elsewhere an empty list."""


class Engine(Scorer, Protocol):
    """What training asks beside that."""

    def steps(self, batches: Iterable[Batch]) -> Iterator[StepOutput]:
        """Update with one batch after the other; yields loss, logits from before the update and labels."""

    def state_dict(self) -> dict[str, Tensor]:
        """All weights as plain CPU tensors; on rank 0 only (elsewhere an empty dict)."""


def train(
    engine: Engine,
    impressions: Impressions,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    log: Callable[..., None] | None = None,
) -> dict[str, float]:
    """Train on all rows of `impressions`, `epochs` times.

    Args:
        engine: makes the steps. Under several processes each takes its part of every batch.
        impressions: the training rows.
        epochs: passes; ids overfit in the second.
        batch_size: rows of a step over all processes together.
        seed: seed of the order of the rows.
        log: called with the values of a line of `history.jsonl` now and then.

    Returns:
        `seconds` and `samples_per_second` of the loop.
    """
    window = max(_SMALLEST_WINDOW, epochs * len(impressions) // _WINDOWS)
    recent = _Window()
    started = time.perf_counter()
    seen = 0
    plan = list(_global_batches(len(impressions), epochs, batch_size, seed, engine.world_size))
    # The engines average gradients over processes; with this scale the sum of losses becomes the batch's
    # mean.
    batches = (
        build_batch(impressions, rows[engine.rank :: engine.world_size], engine.world_size / len(rows))
        for _, rows in plan
    )
    outputs = zip(plan, engine.steps(batches), strict=True)
    for step, ((epoch, rows), output) in enumerate(progress(outputs, "training", len(plan)), start=1):
        seen += len(rows)
        recent.add(output, len(rows))
        if log is not None and (recent.rows >= window or step == len(plan)):
            log(step=step, epoch=epoch, samples=seen, **recent.values())
            recent = _Window()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "samples_per_second": seen / seconds}


def score(engine: Scorer, impressions: Impressions) -> NDArray[np.float32] | None:
    """Logits of all rows, in order, (R,); on rank 0 (None elsewhere).

    Processes take neighbouring rows in turn and an equal number of batches, the last one filled up with
    repeated rows where need be, so that no process waits for another's collective.
    """
    total = len(impressions)
    share = -(-total // engine.world_size)
    rows = np.minimum(np.arange(share) * engine.world_size + engine.rank, total - 1)
    parts = [
        engine.score(build_batch(impressions, rows[first : first + _SCORING_BATCH]))
        for first in progress(range(0, share, _SCORING_BATCH), "scoring")
    ]
    gathered = engine.gather(torch.cat(parts))
    if not gathered:
        return None
    return torch.stack(gathered, dim=1).flatten()[:total].numpy()


class _Window:
    """Losses and predictions since the last line of the log."""

    def __init__(self) -> None:
        self.rows = 0
        self._outputs: list[StepOutput] = []
        self._started = time.perf_counter()

    def add(self, output: StepOutput, rows: int) -> None:
        self.rows += rows
        self._outputs.append(output)

    def values(self) -> dict[str, float | None]:
        losses, logits, labels = zip(*self._outputs, strict=True)
        loss = float(torch.stack(losses).mean())
        if not np.isfinite(loss):
            raise UserError(
                "the loss is not finite any more; lower --learning-rate or --sparse-learning-rate"
            )
        return {
            "loss": loss,
            "auc": auc(torch.cat(labels).cpu().numpy(), torch.cat(logits).cpu().numpy()),
            "samples_per_second": round(self.rows / (time.perf_counter() - self._started)),
        }


def _global_batches(
    rows: int, epochs: int, batch_size: int, seed: int, world_size: int
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(epoch, rows) of every step. A last batch with fewer rows than processes is left out."""
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        for first in range(0, rows, batch_size):
            batch = order[first : first + batch_size]
            if len(batch) >= world_size:
                yield epoch, batch
