"""Row-wise Adagrad: its arithmetic, and that a step's work does not depend on the size of the table."""

from __future__ import annotations

import time

import torch
from torch import nn

from ctr.rowwise_adagrad import RowwiseAdagrad


def table_of(rows: int, width: int = 16) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(rows, width, sparse=True)


def test_steps_equal_the_dense_definition() -> None:
    table = table_of(20, 4)
    weight, state = table.weight.detach().clone(), torch.zeros(20)
    optimizer = RowwiseAdagrad([table.weight], learning_rate=0.1)
    for seed in range(4):
        index = torch.randint(0, 20, (15,), generator=torch.Generator().manual_seed(seed))
        scale = torch.randn(15, 4, generator=torch.Generator().manual_seed(seed + 9))
        (table(index) * scale).sum().backward()
        optimizer.step()
        gradient = torch.zeros(20, 4).index_add(0, index, scale)
        state += gradient.square().mean(1)
        weight -= 0.1 * gradient / (state.sqrt() + 1e-8).unsqueeze(1)
    torch.testing.assert_close(table.weight.detach(), weight)
    torch.testing.assert_close(optimizer.states[0], state)


def test_rows_outside_the_batch_keep_every_bit() -> None:
    table = table_of(1_000)
    before = table.weight.detach().clone()
    table(torch.tensor([3, 5, 3])).sum().backward()
    RowwiseAdagrad([table.weight], learning_rate=0.1).step()
    moved = (table.weight.detach() != before).any(dim=1).nonzero().flatten()
    assert moved.tolist() == [3, 5]


def test_an_empty_batch_changes_nothing() -> None:
    table = table_of(10)
    before = table.weight.detach().clone()
    table(torch.zeros(0, dtype=torch.int64)).sum().backward()
    RowwiseAdagrad([table.weight], learning_rate=0.1).step()
    assert torch.equal(table.weight.detach(), before)


def test_a_step_on_a_hundred_times_larger_table_takes_no_longer() -> None:
    """Best of many steps, so that other work on the machine does not count; a dense update takes 50 times."""

    def best_step(rows: int) -> float:
        table = table_of(rows)
        optimizer = RowwiseAdagrad([table.weight], learning_rate=0.1)
        # The same few rows of both tables, so that caches are equally warm.
        index = torch.randint(0, 20_000, (4_096,), generator=torch.Generator().manual_seed(0))
        times = []
        for _ in range(15):
            started = time.perf_counter()
            table(index).sum().backward()
            optimizer.step()
            times.append(time.perf_counter() - started)
        return min(times)

    assert best_step(2_000_000) < 3 * best_step(20_000) + 1e-3
