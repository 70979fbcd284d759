"""Sums and averages over processes: losses, and the gradients of what data parallelism does not wrap."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from moonrec.gathering import world_size


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of a tensor without gradient over all processes."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def average_gradients(module: nn.Module) -> None:
    """Average the gradients of a module over the processes, as data parallelism does for the encoder.

    For the parameters of the loss: they stand outside the module that data parallelism wraps, because with
    gradient caching their gradients come before the encoder's backward pass. Call it between the backward
    pass and the optimizer's step, on all processes.
    """
    if world_size() == 1:
        return
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()


def clip_gradients(module: nn.Module, largest: float = 1.0) -> float:
    """Scale the gradients of a module, sharded or not, to a common length of at most `largest`.

    Returns:
        The length that they had.
    """
    length = torch.nn.utils.clip_grad_norm_(module.parameters(), largest)
    # Of a sharded module each process has its part of the sum.
    return float(length.full_tensor() if isinstance(length, DTensor) else length)
