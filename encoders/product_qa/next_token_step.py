"""One optimizer step of next-token training, in pieces that fit in memory, on any number of processes.

Shapes: B dialogues of a piece, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from encoders.guided_moe import balance_loss
from encoders.objective.gathering import clip_gradients

if TYPE_CHECKING:
    from encoders.mllm.batch import DialogueBatch
    from encoders.mllm.encoder import MllmEncoder

# Weight of the load-balancing loss of routed experts: that of Switch Transformer (arXiv 2101.03961).
BALANCE_WEIGHT = 0.01


class NextTokenStep(nn.Module):
    """The encoder's next-token loss as one module's forward: data parallelism sees a single forward."""

    def __init__(self, encoder: MllmEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: DialogueBatch) -> tuple[Tensor, Tensor]:
        """What to minimise, and the cross entropy alone, both summed over the answers' tokens, scalars.

        Where the encoder has experts, the first one contains their load-balancing loss.
        """
        tokens = answer_tokens(batch)
        entropy = self.encoder.next_token_loss(batch) * tokens
        experts = self.encoder.guided_experts()
        statistics = [one.statistics for one in experts if one.statistics is not None]
        if not statistics or not self.training:
            return entropy, entropy.detach()
        return entropy + BALANCE_WEIGHT * tokens * balance_loss(statistics), entropy.detach()


@dataclass(frozen=True)
class Outcome:
    """What a step found: mean cross entropy per token of the whole batch, its tokens, the gradient's length.

    `bad_pieces` are the pieces of this process whose loss is not finite.
    """

    loss: float
    tokens: int
    gradient: float
    bad_pieces: tuple[int, ...]


def answer_tokens(batch: DialogueBatch) -> Tensor:
    """How many tokens the loss of a batch is a mean of; the first token of a sequence is never predicted."""
    return (batch.labels_BT[:, 1:] != -100).sum()


def accumulate(
    prepared: nn.Module, batches: Iterator[DialogueBatch], pieces: int, accelerator: Accelerator
) -> Outcome:
    """Put the gradient of the mean loss per answer token into the parameters, from `pieces` of `batches`.

    The mean runs over all pieces of all processes: how a batch is cut does not change its gradient (but for
    the experts' load-balancing loss, which every piece has for itself). The gradient is clipped to length 1.
    Nothing but the last piece's backward talks to the other processes.
    """
    sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    bad: list[int] = []
    for number in range(pieces):
        batch = next(batches).to(accelerator.device)
        if number < pieces - 1:
            with accelerator.no_sync(prepared):
                entropy = _backward(prepared, batch, accelerator)
        else:
            entropy = _backward(prepared, batch, accelerator)
        sums += torch.stack([entropy.double(), answer_tokens(batch).double()])
        if not torch.isfinite(entropy):
            bad.append(number)
    entropy_sum, tokens = accelerator.reduce(sums, "sum").tolist()
    # Data parallelism has averaged over processes what is to be summed.
    for parameter in prepared.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(accelerator.num_processes / max(tokens, 1.0))
    length = clip_gradients(prepared)
    return Outcome(entropy_sum / max(tokens, 1.0), int(tokens), length, tuple(bad))


def _backward(prepared: nn.Module, batch: DialogueBatch, accelerator: Accelerator) -> Tensor:
    objective, entropy = prepared(batch)
    accelerator.backward(objective)
    return entropy
