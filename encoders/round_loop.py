"""The steps of one round: products into the encoder, vectors into the objective, gradients back.

Shapes: P pairs and H hard negatives of a batch, B products of all sides, E embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from encoders.encoder import Encoder, ProductBatch
from encoders.expert_use import ExpertUse
from encoders.launch import Wrapped
from encoders.objective.gathering import average_gradients, clip_gradients, sum_over_processes
from encoders.objective.gradient_cache import contrastive_step
from encoders.objective.labels import ItemLabels, PairLabels
from encoders.pairs import Pairs
from encoders.products import View
from encoders.raw_products import ahead
from encoders.sampling import PlannedBatch
from encoders.training_round import Round
from encoders.training_state import Trained
from moonrec.errors import UserError
from moonrec.progress import progress

if TYPE_CHECKING:
    from encoders.training_loop import Trainer


@dataclass(frozen=True)
class _Sides:
    """A batch on its way to the encoder: rows of the table, what they show, and who they are."""

    anchor_P: np.ndarray
    positive_P: np.ndarray
    hard_H: np.ndarray
    query_view: View
    item_view: View
    labels: PairLabels
    hard_labels: ItemLabels


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
        self._users = 1 + max(int(source.training.user.max(initial=-1)) for source in round_.sources)
        self.expert_use = ExpertUse()

    def epoch(self, epoch: int) -> dict[str, Any]:
        """Train on one epoch's batches; returns what the history says of it.

        Raises:
            UserError: the loss is not finite, or there are fewer pairs than processes.
        """
        plan = self._round.plan(epoch)
        losses, balances, pairs = [], [], 0
        enough = [b for b in enumerate(plan) if len(b[1].rows) >= self._trainer.accelerator.num_processes]
        # Products are gathered, and their pictures decoded, while the batch before is computed.
        ready = ahead(lambda numbered: self._gathered(epoch, *numbered), enough)
        for number, (sides, chunks) in enumerate(
            progress(ready, f"{self._round.name}, epoch {epoch}", len(enough))
        ):
            loss, balance = self._step(sides, chunks, f"epoch {epoch}, step {number}")
            losses.append(loss)
            balances.append(balance)
            pairs += len(sides.anchor_P) * self._trainer.accelerator.num_processes
        if not losses:
            raise UserError("there are fewer pairs than processes; train with fewer processes")
        # Of all processes: each has seen its own pairs.
        seen = torch.tensor([np.mean(losses), np.mean(balances), 1.0], device=self._trainer.device)
        loss, balance, processes = sum_over_processes(seen).tolist()
        figures: dict[str, Any] = {"loss": loss / processes, "pairs": pairs}
        temperature = self._trained.objective.temperature()  # type: ignore[operator]
        if temperature is not None:
            figures["temperature"] = temperature
        if self._trainer.encoder.guided_experts():
            figures["balance"] = balance / processes
        return figures

    def _gathered(
        self, epoch: int, number: int, batch: PlannedBatch
    ) -> tuple[_Sides, list[list[ProductBatch]]]:
        sides = self._sides(batch, epoch, number)
        return sides, self._chunks(sides)

    def _sides(self, batch: PlannedBatch, epoch: int, number: int) -> _Sides:
        """This process's share of a batch."""
        products, accelerator = self._trainer.products, self._trainer.accelerator

        def share(rows: np.ndarray) -> np.ndarray:
            return np.array_split(rows, accelerator.num_processes)[accelerator.process_index]

        pairs: Pairs = self._round.sources[batch.source].training[share(batch.rows)]
        hard_H = np.zeros(0, np.int64)
        if self._round.hard:
            hard = self._round.hard[batch.source]
            hard_H = share(hard.rows(batch.rows, epoch, number, self._round.hard_count)).ravel()
            hard_H = hard_H[hard_H >= 0]

        def labels(rows: np.ndarray) -> ItemLabels:
            return ItemLabels.of_rows(rows, products.product_M, products.text_M)

        # Whose answers belong together: those of a user's behaviour, or of equal queries.
        asked = products.query_R[pairs.anchor] + self._users
        group = torch.from_numpy(np.where(pairs.user >= 0, pairs.user, asked))
        return _Sides(
            anchor_P=pairs.anchor,
            positive_P=pairs.positive,
            hard_H=hard_H,
            query_view=batch.query_view,
            item_view=batch.item_view,
            labels=PairLabels(labels(pairs.positive), labels(pairs.own), group),
            hard_labels=labels(hard_H),
        )

    def _step(self, sides: _Sides, chunks: list[list[ProductBatch]], where: str) -> tuple[float, float]:
        trainer, trained = self._trainer, self._trained
        device, pairs = trainer.device, len(sides.anchor_P)
        labels, hard_labels = sides.labels.to(device), sides.hard_labels.to(device)
        start_PE = self._start_vectors(sides)

        def loss_of(vectors_BE: Tensor) -> Tensor:
            anchors_PE, positives_PE, hard_HE = vectors_BE.split([pairs, pairs, len(sides.hard_H)])
            return trained.objective(
                anchors_PE, positives_PE, hard_HE, labels, hard_labels, start_PE, trained.queue
            )

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
        trained.queue.push(step.vectors_BE[pairs : 2 * pairs], labels.positives)
        trained.queue.push(step.vectors_BE[2 * pairs :], hard_labels)
        self.expert_use.add(step.statistics)
        return loss, float(step.balance)

    def _chunks(self, sides: _Sides) -> list[list[ProductBatch]]:
        """What goes through the encoder at once: everything, or pieces of one side after the other."""
        table, size = self._trainer.products.table, self._trainer.chunk_size
        parts = [
            (sides.anchor_P, sides.query_view),
            (sides.positive_P, sides.item_view),
            (sides.hard_H, sides.item_view),
        ]
        parts = [(rows, view) for rows, view in parts if len(rows)]
        if not size or sum(len(rows) for rows, _ in parts) <= size:
            return [[table.gather(rows, view) for rows, view in parts]]
        return [
            [table.gather(rows[at : at + size], view)]
            for rows, view in parts
            for at in range(0, len(rows), size)
        ]

    @torch.no_grad()
    def _start_vectors(self, sides: _Sides) -> Tensor | None:
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

    def _check_finite(self, loss: float, gradient: float, sides: _Sides, where: str) -> None:
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
