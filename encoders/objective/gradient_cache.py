"""Gradients of a large batch in the memory of a small one.

Shapes: B products of all chunks, E embedding width, X routed experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from encoders.encoder import ProductBatch
from encoders.guided_moe import RouterStatistics, balance_loss
from encoders.objective.gathering import sum_over_processes
from moonrec.gathering import world_size

Encode = Callable[[Sequence[ProductBatch]], tuple[Tensor, list[RouterStatistics]]]
# Per mixture of experts over the whole batch: tokens per routed expert (X,), and tokens in all.
Totals = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Step:
    """What one training step came to; nothing of it has a gradient.

    Attributes:
        loss: the contrastive loss of this process.
        balance: the load-balancing loss of this process; 0 without routed experts.
        vectors_BE: what the encoder made of the chunks, one after the other.
        statistics: per chunk and mixture of experts, who got the tokens.
    """

    loss: Tensor
    balance: Tensor
    vectors_BE: Tensor
    statistics: list[list[RouterStatistics]]


def contrastive_step(
    encode: Encode,
    chunks: Sequence[Sequence[ProductBatch]],
    loss_of: Callable[[Tensor], Tensor],
    *,
    device: torch.device,
    balance_weight: float = 0.0,
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Step:
    """Gradients of `loss_of(vectors) + balance_weight * balance` for one batch, added to `.grad`.

    A single chunk goes through the encoder once. Several are encoded without keeping anything, the loss is
    derived with respect to the vectors, and then every chunk is encoded a second time to carry these
    derivatives into the weights (gradient caching, Gao et al., https://arxiv.org/abs/2101.06983). Memory is
    that of the largest chunk, time about 4/3. The gradients are those of the same chunks all kept at once:
    random numbers (dropout) are the same in both passes.

    Load is balanced over the whole batch of all processes, not chunk by chunk: small chunks need not be
    balanced each (https://arxiv.org/abs/2501.11873).

    Args:
        encode: `EncodeStep`, as it is or wrapped for data parallelism.
        chunks: each is what goes through the encoder at once, on any device.
        loss_of: the loss of the vectors of all chunks, one after the other.
        device: where the encoder is.
        balance_weight: of the load balancing.
        backward: the backward pass through the encoder, `accelerator.backward`. It must not rescale: the
            loss's own parameters get their gradients outside it.
        no_sync: context in which data parallelism does not average gradients: it does so once, with the last
            chunk. Leave it out for FSDP, whose processes would each hold all gradients in it.
    """
    if len(chunks) == 1:
        return _plain(encode, chunks[0], loss_of, device, balance_weight, backward)
    vectors_BE, seen, states = _look(encode, chunks, device, no_sync)
    totals = _totals(seen)
    leaf_BE = torch.cat(vectors_BE).requires_grad_()
    loss = loss_of(leaf_BE)
    loss.backward()
    assert leaf_BE.grad is not None
    gradients = leaf_BE.grad.split([len(part) for part in vectors_BE])
    balance = torch.zeros_like(loss)
    for number, (chunk, state, gradient_BE) in enumerate(zip(chunks, states, gradients, strict=True)):
        state.restore()
        with nullcontext() if number == len(chunks) - 1 else no_sync():
            again_BE, statistics = encode(_moved(chunk, device))
            share = _balance(statistics, totals, balance_weight, loss)
            backward((again_BE * gradient_BE).sum() + balance_weight * share)
        balance = balance + share.detach()
    return Step(loss.detach(), balance.detach(), leaf_BE.detach(), seen)


def _plain(
    encode: Encode,
    chunk: Sequence[ProductBatch],
    loss_of: Callable[[Tensor], Tensor],
    device: torch.device,
    balance_weight: float,
    backward: Callable[[Tensor], None],
) -> Step:
    vectors_BE, statistics = encode(_moved(chunk, device))
    # Before the loss, as for several chunks: processes may differ in their number, and must meet in one
    # order.
    totals = _totals([statistics])
    loss = loss_of(vectors_BE)
    balance = _balance(statistics, totals, balance_weight, loss)
    backward(loss + balance_weight * balance)
    return Step(loss.detach(), balance.detach(), vectors_BE.detach(), [_detached(statistics)])


def _look(
    encode: Encode,
    chunks: Sequence[Sequence[ProductBatch]],
    device: torch.device,
    no_sync: Callable[[], AbstractContextManager[None]],
) -> tuple[list[Tensor], list[list[RouterStatistics]], list[_RandomState]]:
    """The first pass: per chunk its vectors, its statistics, and the generators before it."""
    vectors, seen, states = [], [], []
    with torch.no_grad(), no_sync():
        for chunk in chunks:
            states.append(_RandomState.of(device))
            vectors_BE, statistics = encode(_moved(chunk, device))
            vectors.append(vectors_BE)
            seen.append(_detached(statistics))
    return vectors, seen, states


def _balance(statistics: list[RouterStatistics], totals: Totals, weight: float, like: Tensor) -> Tensor:
    """A chunk's share of the balancing loss; the mean over processes of all shares is the batch's."""
    if not statistics or not weight:
        return torch.zeros_like(like)
    return world_size() * balance_loss(statistics, totals)


def _totals(chunks: Sequence[Sequence[RouterStatistics]]) -> Totals:
    return [
        (
            sum_over_processes(torch.stack([part.count_X for part in layer]).sum(0)),
            sum_over_processes(torch.stack([part.tokens for part in layer]).sum(0)),
        )
        for layer in zip(*chunks, strict=True)
    ]


def _detached(statistics: Sequence[RouterStatistics]) -> list[RouterStatistics]:
    return [
        replace(layer, probability_X=layer.probability_X.detach(), gate_BR=layer.gate_BR.detach())
        for layer in statistics
    ]


def _moved(batches: Sequence[ProductBatch], device: torch.device) -> list[ProductBatch]:
    return [batch.to(device) for batch in batches]


@dataclass(frozen=True)
class _RandomState:
    """torch's generators before a chunk, so that its second pass drops out the same."""

    cpu: Tensor
    device: torch.device
    accelerator: Tensor | None

    @classmethod
    def of(cls, device: torch.device) -> _RandomState:
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), device, cuda)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.accelerator is not None:
            torch.cuda.set_rng_state(self.accelerator, self.device)
