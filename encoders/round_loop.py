"""The steps of one round: products into the encoder, vectors into the objective, gradients back.

Shapes: P pairs and H hard negatives of a batch, B products of all its parts, E embedding width, F outputs of
the encoder (its vectors, and behind them the gates of its experts where the objective looks at them), S
steps, K figures.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from encoders.encoder import Encoder, ProductBatch
from encoders.expert_use import ExpertUse
from encoders.launch import Wrapped
from encoders.objective.gathering import average_gradients, clip_gradients, sum_over_processes
from encoders.objective.gradient_cache import contrastive_step
from encoders.raw_products import ahead
from encoders.sampling import PlannedBatch
from encoders.sides import Sides
from encoders.sides_maker import SidesMaker
from encoders.training_round import Round
from encoders.training_state import Trained
from moonrec.errors import UserError
from moonrec.progress import progress

if TYPE_CHECKING:
    from encoders.training_loop import Trainer


class RoundLoop:
    """The steps of one round."""

    def __init__(
        self, trainer: Trainer, round_: Round, trained: Trained, wrapped: Wrapped, teacher: Encoder | None
    ) -> None:
        self._trainer = trainer
        self._round = round_
        self._trained = trained
        self._wrapped = wrapped
        self._teacher = teacher
        self._maker = SidesMaker(trainer, round_)
        self.filtered = self._maker.filtered
        self.expert_use = ExpertUse()

    def epoch(self, epoch: int) -> dict[str, Any]:
        """Train on one epoch's batches; returns what the history says of it.

        Raises:
            UserError: the loss is not finite, or there are fewer pairs than processes.
        """
        plan = self._round.plan(epoch)
        steps: list[dict[str, float]] = []
        pairs = 0
        enough = [b for b in enumerate(plan) if len(b[1].rows) >= self._trainer.accelerator.num_processes]
        # Products are gathered, and their pictures decoded, while the batch before is computed.
        ready = ahead(lambda numbered: self._gathered(epoch, *numbered), enough)
        for number, (sides, chunks) in enumerate(
            progress(ready, f"{self._round.name}, epoch {epoch}", len(enough))
        ):
            steps.append(self._step(sides, chunks, f"epoch {epoch}, step {number}"))
            pairs += len(sides.anchor_P) * self._trainer.accelerator.num_processes
        if not steps:
            raise UserError("there are fewer pairs than processes; train with fewer processes")
        figures: dict[str, Any] = self._mean(steps) | {"pairs": pairs}
        temperature = self._trained.objective.temperature()  # type: ignore[operator]
        if temperature is not None:
            figures["temperature"] = temperature
        if not self._trainer.encoder.guided_experts():
            del figures["balance"]
        return figures

    def _mean(self, steps: list[dict[str, float]]) -> dict[str, float]:
        """Means over the steps of all processes, each with its own pairs, of what has a value in any."""
        values_SK = torch.tensor([list(step.values()) for step in steps], dtype=torch.float64)
        there_SK = ~values_SK.isnan()
        sums_2K = torch.stack([values_SK.nan_to_num().sum(0), there_SK.sum(0).double()])
        total_K, count_K = sum_over_processes(sums_2K.float().to(self._trainer.device)).double()
        found = (total_K / count_K).tolist()
        return {name: value for name, value, n in zip(steps[0], found, count_K.tolist(), strict=True) if n}

    def _gathered(
        self, epoch: int, number: int, batch: PlannedBatch
    ) -> tuple[Sides, list[list[ProductBatch]]]:
        sides = self._maker.sides(batch, epoch, number)
        return sides, self._chunks(sides)

    def _step(self, sides: Sides, chunks: list[list[ProductBatch]], where: str) -> dict[str, float]:
        trainer, trained = self._trainer, self._trained
        device, pairs, hard = trainer.device, len(sides.positive_P), len(sides.hard_H)
        start_PE = self._start_vectors(sides)
        figures: dict[str, float] = {}

        real = sum(len(batch) for chunk in chunks for batch in chunk)
        if trainer.sharded:
            chunks = self._evened(chunks, sides)

        def loss_of(outputs_BF: Tensor) -> Tensor:
            loss, found = sides.loss(trained.objective, outputs_BF[:real], start_PE, trained.queue)
            figures.update(found)
            return loss

        step = contrastive_step(
            self._wrapped.module,
            chunks,
            loss_of,
            device=device,
            balance_weight=self._round.objective.balance_weight,
            backward=trainer.accelerator.backward,
            no_sync=self._wrapped.no_sync,
        )
        loss = float(step.loss)
        average_gradients(trained.objective)
        length = clip_gradients(trained.encoder)
        self._check_finite(loss, length, sides, where)
        for optimizer in (trained.optimizer, trained.objective_optimizer):
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()
        # One after the other, so that the queue is that of one process with the whole batch.
        vectors_BE = step.vectors_BE[:, : self._round.objective.dims[0]]
        trained.queue.push(vectors_BE[:pairs], sides.labels.positives.to(device))
        trained.queue.push(vectors_BE[pairs : pairs + hard], sides.hard_labels.to(device))
        self.expert_use.add(step.statistics)
        return {"loss": loss, "balance": float(step.balance), **figures}

    def _evened(self, chunks: list[list[ProductBatch]], sides: Sides) -> list[list[ProductBatch]]:
        """As many forward passes as any other process makes: a sharded encoder makes them together.

        What is missing is filled up with a product whose outputs nobody looks at.
        """
        single = [[batch] for chunk in chunks for batch in chunk]
        most = torch.tensor(len(single), device=self._trainer.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        for _ in range(int(most) - len(single)):
            single.append([self._trainer.products.table.gather(sides.positive_P[:1], sides.item_view)])
        return single

    def _chunks(self, sides: Sides) -> list[list[ProductBatch]]:
        """What goes through the encoder at once: everything, or pieces of one part after the other."""
        table, size = self._trainer.products.table, self._trainer.chunk_size
        parts = [(rows, view) for rows, view in sides.parts() if len(rows)]
        if not size or sum(len(rows) for rows, _ in parts) <= size:
            return [[table.gather(rows, view) for rows, view in parts]]
        return [
            [table.gather(rows[at : at + size], view)]
            for rows, view in parts
            for at in range(0, len(rows), size)
        ]

    @torch.no_grad()
    def _start_vectors(self, sides: Sides) -> Tensor | None:
        """The positives' vectors when the round began (P, E)."""
        if self._teacher is None:
            return None
        trainer = self._trainer
        size = trainer.chunk_size or len(sides.positive_P)
        with trainer.accelerator.autocast():
            parts = [
                self._teacher(
                    trainer.products.table.gather(sides.positive_P[at : at + size], sides.item_view).to(
                        trainer.device
                    )
                )
                for at in range(0, len(sides.positive_P), size)
            ]
        return torch.cat(parts)

    def _check_finite(self, loss: float, gradient: float, sides: Sides, where: str) -> None:
        """Stop before weights are spoilt; the process whose batch it was names it."""
        own = not math.isfinite(loss)
        # All processes stop together: one alone would leave the others waiting for it.
        bad = sum_over_processes(torch.tensor(float(own), device=self._trainer.device))
        if not bad and math.isfinite(gradient):
            return
        what = f"the loss is {loss}" if own else f"the gradient is {gradient}" if not bad else ""
        where = f"{self._round.name}, {where}"
        if not what:
            raise UserError(f"{where}: another process met a loss that is not finite; see its message")
        name = self._trainer.products.name
        found = zip(sides.anchor_P, sides.positive_P, strict=True)
        batch = [f"{name(a)} -> {name(p)}" for a, p in found] + [name(h) for h in sides.hard_H]
        path = self._trainer.note_broken_batch(batch)
        raise UserError(
            f"{where}: {what}; the batch begins with {', '.join(batch[:5])}, and all of it stands in {path}. "
            "The last good checkpoint is kept; lower --learning-rate, or look at these items"
        )
