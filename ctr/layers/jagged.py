"""Sums, expansions and dot products over jagged rows, without padding and without writing out large gathers.

A jagged tensor holds the behaviours of all rows end to end (N of them); `offset_B1` says where each row
begins. Two kernels of PyTorch do the heavy part on CPU, and neither is found under the name that one looks
for: `embedding_bag` with per-sample weights is a weighted sum per row, `sparse.sampled_addmm` is a dot
product per (row, behaviour). Both read vectors where they lie. Measured on two cores, 42,000 behaviours of
width 128: 0.3 ms for the dot products, where gathering both sides and multiplying takes 4.4 ms.

Legend: B rows, N behaviours, V rows of a table of vectors, D width.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# PyTorch says once per process that sparse CSR tensors are in beta: here, where nobody hears it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], torch.zeros(0, dtype=torch.int64), torch.zeros(0), (1, 1))


def row_dots(left_BD: Tensor, table_VD: Tensor, index_N: Tensor, offset_B1: Tensor) -> Tensor:
    """Dot products of each row with its behaviours' vectors, `left_BD[row] · table_VD[index_N]`: (N,)."""
    left_BD, table_VD = _alike(left_BD, table_VD)
    if left_BD.is_cuda or len(index_N) > left_BD.shape[0] * table_VD.shape[0]:
        # The kernel below takes no more entries than a dense matrix has.
        row_N = expand_index(offset_B1, len(index_N))
        return (table_VD.index_select(0, index_N) * left_BD.index_select(0, row_N)).sum(-1)
    shape = (len(left_BD), len(table_VD))
    pattern = torch.sparse_csr_tensor(
        offset_B1, index_N, left_BD.new_zeros(len(index_N)), shape, check_invariants=False
    )
    return torch.sparse.sampled_addmm(pattern, left_BD.contiguous(), table_VD.t()).values()


def row_sums(value_ND: Tensor, offset_B1: Tensor) -> Tensor:
    """Sum of each row's behaviours, (B, D), zeros for an empty row; without gradient."""
    index_N = torch.arange(len(value_ND), device=value_ND.device)
    return F.embedding_bag(index_N, value_ND, offset_B1, mode="sum", include_last_offset=True)


def row_means(value_ND: Tensor, offset_B1: Tensor) -> Tensor:
    """The mean of each row's values, (B, D), differentiable; zeros for a row without any."""
    length_B = offset_B1.diff()
    row_N = expand_index(offset_B1, len(value_ND))
    share_N = (1 / length_B.clamp_min(1)).to(value_ND.dtype).index_select(0, row_N)
    return weighted_sums(share_N, value_ND, row_N, offset_B1)


def expand_index(offset_B1: Tensor, total: int) -> Tensor:
    """The row of each behaviour, (N,) int64; `total` is N."""
    rows = torch.arange(len(offset_B1) - 1, device=offset_B1.device)
    return torch.repeat_interleave(rows, offset_B1.diff(), output_size=total)


def expand(value_BD: Tensor, row_N: Tensor, offset_B1: Tensor) -> Tensor:
    """Repeat each row's vector for each of its behaviours: (B, D) to (N, D)."""
    expanded: Tensor = _Expand.apply(value_BD, row_N, offset_B1)
    return expanded


def weighted_sums(weight_N: Tensor, value_ND: Tensor, row_N: Tensor, offset_B1: Tensor) -> Tensor:
    """`Σ weight · value` over each row's behaviours, (B, D), differentiable in both.

    Computed in float32 or better, whatever the inputs are, and given back in the type of `value_ND`.
    """
    sums: Tensor = _WeightedSums.apply(*_alike(weight_N, value_ND), row_N, offset_B1)
    return sums.to(value_ND.dtype)


def weighted_table_sums(weight_N: Tensor, table_VD: Tensor, index_N: Tensor, offset_B1: Tensor) -> Tensor:
    """`Σ weight · table[index]` over each row's behaviours, (B, D), differentiable in the weights only.

    Computed in float32 or better, whatever the inputs are, and given back in the type of `table_VD`.
    """
    sums: Tensor = _WeightedTableSums.apply(*_alike(weight_N, table_VD), index_N, offset_B1)
    return sums.to(table_VD.dtype)


def _alike(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one type, float32 or wider: the kernels take no two, and sum in the type of what they read."""
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    return left.to(dtype), right.to(dtype)


class _Expand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value_BD: Tensor, row_N: Tensor, offset_B1: Tensor) -> Tensor:
        ctx.save_for_backward(offset_B1)
        return value_BD.index_select(0, row_N)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (offset_B1,) = ctx.saved_tensors
        gradient_ND, _ = _alike(gradients[0], gradients[0])
        return row_sums(gradient_ND.contiguous(), offset_B1).to(gradients[0].dtype), None, None


class _WeightedSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_N: Tensor, value_ND: Tensor, row_N: Tensor, offset_B1: Tensor) -> Tensor:
        ctx.save_for_backward(weight_N, value_ND, row_N)
        index_N = torch.arange(len(value_ND), device=value_ND.device)
        return F.embedding_bag(
            index_N, value_ND, offset_B1, mode="sum", per_sample_weights=weight_N, include_last_offset=True
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight_N, value_ND, row_N = ctx.saved_tensors
        gradient_ND = gradients[0].index_select(0, row_N)
        weight_gradient_N = (gradient_ND * value_ND).sum(-1) if ctx.needs_input_grad[0] else None
        value_gradient_ND = gradient_ND.mul_(weight_N.unsqueeze(1)) if ctx.needs_input_grad[1] else None
        return weight_gradient_N, value_gradient_ND, None, None


class _WeightedTableSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_N: Tensor, table_VD: Tensor, index_N: Tensor, offset_B1: Tensor) -> Tensor:
        ctx.save_for_backward(table_VD, index_N, offset_B1)
        return F.embedding_bag(
            index_N, table_VD, offset_B1, mode="sum", per_sample_weights=weight_N, include_last_offset=True
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        table_VD, index_N, offset_B1 = ctx.saved_tensors
        return row_dots(gradients[0], table_VD, index_N, offset_B1), None, None, None
