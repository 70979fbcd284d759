"""Rows of all processes: the negatives that other processes hold, and the gradients that flow back to them.

Shapes: N rows of a section on this process, W processes, F numbers in a flat buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Number of processes; 1 outside `torchrun`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_sections(sections: Sequence[Tensor]) -> list[list[Tensor]]:
    """Each section's rows, process by process: `result[section][process]`.

    All sections travel in one message. Numbers of rows may differ between processes, numbers of columns may
    not.
    Gradients flow back: a row receives the sum of what all processes derive with respect to it.

    Args:
        sections: 2-D tensors of one dtype.
    """
    if world_size() == 1:
        return [[section] for section in sections]
    flat_F = torch.cat([section.flatten() for section in sections])
    rows_WS = _sizes([len(section) for section in sections], flat_F.device)
    widths = [section.shape[1] for section in sections]
    lengths = [sum(n * width for n, width in zip(rows, widths, strict=True)) for rows in rows_WS]
    padded_F = nn.functional.pad(flat_F, (0, max(lengths) - len(flat_F)))
    gathered_WF = _AllGather.apply(padded_F)
    result: list[list[Tensor]] = [[] for _ in sections]
    for rows, length, row_F in zip(rows_WS, lengths, gathered_WF.unbind(), strict=True):
        parts = row_F[:length].split([n * width for n, width in zip(rows, widths, strict=True)])
        for section, part, width in zip(result, parts, widths, strict=True):
            section.append(part.view(-1, width))
    return result


def _sizes(own: Sequence[int], device: torch.device) -> list[list[int]]:
    sizes_WS = torch.empty(world_size(), len(own), dtype=torch.int64, device=device)
    dist.all_gather(list(sizes_WS.unbind()), torch.tensor(own, dtype=torch.int64, device=device))
    return sizes_WS.tolist()


class _AllGather(torch.autograd.Function):
    """(F,) on each of W processes -> (W, F) on all of them; backward sums over the processes."""

    @staticmethod
    def forward(ctx: Any, x_F: Tensor) -> Tensor:
        gathered_WF = x_F.new_empty(world_size(), len(x_F))
        dist.all_gather(list(gathered_WF.unbind()), x_F.contiguous())
        return gathered_WF

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient_WF = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient_WF)
        return gradient_WF[dist.get_rank()]
