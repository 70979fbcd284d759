"""Row-wise Adagrad on the rows that a batch touched: the cost of a step does not grow with the table.

The mathematics is fbgemm's EXACT_ROWWISE_ADAGRAD, which TorchRec fuses into the backward pass of sharded
tables (https://docs.pytorch.org/FBGEMM/, `optim` of `SplitTableBatchedEmbeddingBagsCodegen`), so that the two
engines agree. On one CPU process this is the faster of the two by far: nothing but the touched rows is read
or written.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

EPSILON = 1e-8


class RowwiseAdagrad:
    """One learning-rate state per row: `state += mean(g²)`, `row -= lr · g / (sqrt(state) + eps)`.

    Args:
        tables: embedding weights (rows, E) whose gradients are sparse (`nn.Embedding(..., sparse=True)`).
        learning_rate: `lr` above.
        epsilon: `eps` above.
    """

    def __init__(
        self, tables: Iterable[nn.Parameter], learning_rate: float, epsilon: float = EPSILON
    ) -> None:
        self.tables = list(tables)
        self.states = [torch.zeros(len(table), device=table.device) for table in self.tables]
        self._learning_rate = learning_rate
        self._epsilon = epsilon

    @torch.no_grad()
    def step(self) -> None:
        """Update the rows that have a gradient, and drop the gradients."""
        for table, state in zip(self.tables, self.states, strict=True):
            if table.grad is None:
                continue
            rows_T, gradient_TE = _sum_by_row(table.grad)
            table.grad = None
            state_T = state.index_select(0, rows_T) + gradient_TE.square().mean(dim=1)
            state.index_copy_(0, rows_T, state_T)
            step_TE = gradient_TE.mul_(-self._learning_rate / (state_T.sqrt() + self._epsilon).unsqueeze(1))
            table.data.index_add_(0, rows_T, step_TE)


def _sum_by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Touched rows, each once, and the sum of each row's gradients."""
    rows_N, gradient_NE = gradient._indices()[0], gradient._values()
    if len(rows_N) == 0:
        return rows_N, gradient_NE
    sorted_N, order_N = torch.sort(rows_N, stable=True)
    rows_T, count_T = torch.unique_consecutive(sorted_N, return_counts=True)
    offset_T1 = torch.cat([count_T.new_zeros(1), count_T.cumsum(0)])
    # A bag per row over its gradients sums them without writing out the sorted copy.
    sums_TE = nn.functional.embedding_bag(
        order_N, gradient_NE, offset_T1, mode="sum", include_last_offset=True
    )
    return rows_T, sums_TE
