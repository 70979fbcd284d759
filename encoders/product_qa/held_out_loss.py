"""How well held-out products are answered for: the loss per answer token, overall and task by task."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from encoders.product_qa.dialogues import Dialogues
from encoders.product_qa.next_token_step import answer_tokens
from encoders.product_qa.questions import Dialogue
from encoders.raw_products import ahead
from moonrec.errors import UserError


class HeldOutLoss:
    """The same questions after every epoch, one per held-out item, in batches of one task."""

    def __init__(self, dialogues: Dialogues, rows: np.ndarray, micro_batch: int) -> None:
        self._dialogues = dialogues
        self.drawn = dialogues.draw(rows, epoch=0)
        self.tasks = sorted({one.task for one in self.drawn})
        self._pieces: list[list[Dialogue]] = []
        for task in self.tasks:
            asked = [one for one in self.drawn if one.task == task]
            self._pieces += [asked[i : i + micro_batch] for i in range(0, len(asked), micro_batch)]

    @torch.no_grad()
    def __call__(self, prepared: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """`loss` and one `loss_<task>` per task, in nats per answer token; empty without held-out items.

        Raises:
            UserError: a loss is not finite.
        """
        if not self._pieces:
            return {}
        was_training = prepared.training
        prepared.eval()
        sums = torch.zeros(len(self.tasks), 2, dtype=torch.float64, device=accelerator.device)
        processes = accelerator.num_processes
        # Every process takes as many turns, or those of a sharded model wait for each other forever.
        rounds = -(-len(self._pieces) // processes)
        turns = range(accelerator.process_index, rounds * processes, processes)
        pieces = [self._pieces[turn % len(self._pieces)] for turn in turns]
        for turn, piece, batch in zip(turns, pieces, ahead(self._dialogues.batch, pieces), strict=True):
            batch = batch.to(accelerator.device)
            _, entropy = prepared(batch)
            if turn < len(self._pieces):
                found = torch.stack([entropy.double(), answer_tokens(batch).double()])
                sums[self.tasks.index(piece[0].task)] += found
        prepared.train(was_training)
        entropy_T, tokens_T = accelerator.reduce(sums, "sum").cpu().numpy().T
        names = [f"loss_{task}" for task in self.tasks]
        by_task = dict(zip(names, (entropy_T / tokens_T).tolist(), strict=True))
        if not np.isfinite(entropy_T).all():
            raise UserError(
                "the loss of held-out products is not finite: the weights that training began with, or what "
                "it made of them, are unusable; try another checkpoint, or a lower --learning-rate"
            )
        return {"loss": float(entropy_T.sum() / tokens_T.sum())} | by_task
