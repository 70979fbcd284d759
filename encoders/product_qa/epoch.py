"""One epoch of questions: asked in a planned order, read ahead in the background, learnt step by step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from encoders.product_qa.dialogues import Dialogues
from encoders.product_qa.next_token_step import Outcome, accumulate
from encoders.product_qa.options import NextTokenConfig
from encoders.product_qa.split import question_plan
from encoders.product_qa.templates import templates
from encoders.raw_products import ahead
from moonrec.errors import UserError
from moonrec.progress import progress

if TYPE_CHECKING:
    from encoders.mllm.batch import DialogueBatch

_WARMUP_SHARE = 0.03
_NAMED_ITEMS = 10

# A piece of a batch: the number of the round that its questions are drawn in, and the items asked about.
_Piece = tuple[int, np.ndarray]


class Epochs:
    """Trains epoch after epoch; nothing of one depends on another but weights and optimizer.

    Args:
        config: see `NextTokenConfig`.
        dialogues: makes the batches.
        training: rows to ask about.
        item_ids: of all rows, for messages.
    """

    def __init__(
        self, config: NextTokenConfig, dialogues: Dialogues, training: np.ndarray, item_ids: list[str]
    ) -> None:
        self._config = config
        self._dialogues = dialogues
        self._training = training
        self._item_ids = item_ids

    def train(
        self,
        epoch: int,
        prepared: nn.Module,
        optimizer: torch.optim.Optimizer,
        rates: list[float],
        accelerator: Accelerator,
    ) -> tuple[list[float], Counter[str]]:
        """Train one epoch, counted from 1.

        Args:
            epoch: its number, which decides all that is drawn.
            prepared: a `NextTokenStep`, as the accelerator wraps it.
            optimizer: of its parameters.
            rates: the highest learning rate of each of the optimizer's groups.
            accelerator: whose processes share every batch.

        Returns:
            The loss per answer token of every step, and how many questions of each task were asked.

        Raises:
            UserError: fewer items than processes, or a loss that is not finite.
        """
        plan = self._plan(epoch, accelerator)
        steps = [list(self._pieces(number, rows, accelerator)) for number, rows in plan]
        asked: Counter[str] = Counter()
        losses: list[float] = []
        pieces = (piece for step in steps for piece in step)
        with closing(_counted(ahead(self._make, pieces), asked)) as batches:
            for number, step in enumerate(progress(steps, f"epoch {epoch}", len(steps))):
                done = (epoch - 1) * len(plan) + number
                factor = learning_rate_factor(done, self._config.epochs * len(plan))
                for group, highest in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = highest * factor
                outcome = accumulate(prepared, batches, len(step), accelerator)
                self._check(outcome, step, epoch, number)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(outcome.loss)
        return losses, _summed(asked, accelerator)

    def _plan(self, epoch: int, accelerator: Accelerator) -> list[_Piece]:
        plan = question_plan(
            self._training,
            batch_size=self._config.batch_size * accelerator.num_processes,
            questions=self._config.questions_per_epoch,
            seed=self._config.seed,
            epoch=epoch,
            equal_shares=accelerator.num_processes,
        )
        if not plan:
            raise UserError(
                f"{len(self._training)} items to ask about are fewer than the {accelerator.num_processes} "
                "processes; train with fewer processes"
            )
        return plan

    def _pieces(self, number: int, rows: np.ndarray, accelerator: Accelerator) -> Iterator[_Piece]:
        """This process's share of a batch, in pieces that fit in memory."""
        share = np.split(rows, accelerator.num_processes)[accelerator.process_index]
        size = self._config.micro_batch
        return ((number, share[i : i + size]) for i in range(0, len(share), size))

    def _make(self, piece: _Piece) -> tuple[list[str], DialogueBatch]:
        number, rows = piece
        drawn = self._dialogues.draw(rows, number)
        return [one.task for one in drawn], self._dialogues.batch(drawn)

    def _check(self, outcome: Outcome, step: list[_Piece], epoch: int, number: int) -> None:
        if math.isfinite(outcome.loss) and math.isfinite(outcome.gradient):
            return
        # Where only the gradient overflowed, no piece is known to be the bad one.
        bad = range(len(step)) if math.isfinite(outcome.loss) else outcome.bad_pieces
        rows = gather_object([int(row) for piece in bad for row in step[piece][1]])
        named = ", ".join(self._item_ids[row] for row in rows[:_NAMED_ITEMS])
        more = f" and {len(rows) - _NAMED_ITEMS} more" if len(rows) > _NAMED_ITEMS else ""
        what = "gradient" if math.isfinite(outcome.loss) else "loss"
        raise UserError(
            f"the {what} is not finite in epoch {epoch}, step {number + 1}, at the items {named}{more}; look "
            "at these items or lower --learning-rate (the checkpoint of the last whole epoch is kept)"
        )


def learning_rate_factor(done: int, total: int) -> float:
    """The learning rate after `done` of `total` steps, a share of the highest: a rise, then half a cosine."""
    warmup = max(1, round(_WARMUP_SHARE * total))
    if done < warmup:
        return (done + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(total - warmup, 1)))


def _counted(
    made: Iterable[tuple[list[str], DialogueBatch]], asked: Counter[str]
) -> Generator[DialogueBatch, None, None]:
    for tasks, batch in made:
        asked.update(tasks)
        yield batch


def _summed(asked: Counter[str], accelerator: Accelerator) -> Counter[str]:
    """The counts of all processes."""
    tasks = templates().tasks
    own = torch.tensor([asked[task] for task in tasks], device=accelerator.device)
    return Counter(dict(zip(tasks, accelerator.reduce(own, "sum").tolist(), strict=True)))
