"""Row-wise Adagrad: its arithmetic, and that a step's work does not depend on the size of the table."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from ctr.engines.rowwise_adagrad import RowwiseAdagrad


def table_of(rows: int, width: int = 16) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def gradients(seed: int, rows: int, count: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, rows, (count,), generator=generator), torch.randn(
        count, width, generator=generator
    )


@pytest.mark.parametrize("parts", [1, 3])
def test_steps_equal_the_dense_definition(parts: int) -> None:
    table = table_of(20, 4)
    weight, state = table.clone(), torch.zeros(20)
    optimizer = RowwiseAdagrad({"item": table}, learning_rate=0.1)
    for seed in range(4):
        pairs = [gradients(seed, 20, 15, 4), gradients(seed + 9, 20, 7, 4)]
        for piece in optimizer.pieces({"item": pairs}, parts):
            piece()
        gradient = sum(torch.zeros(20, 4).index_add(0, index, values) for index, values in pairs)
        state += gradient.square().mean(1)
        weight -= 0.1 * gradient / (state.sqrt() + 1e-8).unsqueeze(1)
    torch.testing.assert_close(table, weight)
    torch.testing.assert_close(optimizer.states["item"], state)


def test_the_number_of_parts_changes_no_bit() -> None:
    tables = []
    for parts in (1, 2, 5):
        tables.append(table_of(50))
        optimizer = RowwiseAdagrad({"item": tables[-1]}, learning_rate=0.1)
        for seed in range(3):
            for piece in optimizer.pieces({"item": [gradients(seed, 50, 400, 16)]}, parts):
                piece()
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])


def test_rows_outside_the_batch_keep_every_bit() -> None:
    table = table_of(1_000)
    before = table.clone()
    RowwiseAdagrad({"item": table}, 0.1).step({"item": [(torch.tensor([3, 5, 3]), torch.ones(3, 16))]})
    assert (table != before).any(dim=1).nonzero().flatten().tolist() == [3, 5]


def test_an_empty_batch_changes_nothing() -> None:
    table = table_of(10)
    before = table.clone()
    nothing = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, 16))
    RowwiseAdagrad({"item": table}, 0.1).step({"item": [nothing]})
    assert torch.equal(table, before)


@pytest.mark.alone
def test_a_step_on_a_hundred_times_larger_table_takes_no_longer() -> None:
    """Best of many steps, so that other work on the machine does not count; a dense update takes 50 times."""

    def best_step(rows: int) -> float:
        optimizer = RowwiseAdagrad({"item": table_of(rows)}, learning_rate=0.1)
        # The same few rows of both tables, so that caches are equally warm.
        pairs = {"item": [gradients(0, 20_000, 4_096, 16)]}
        times = []
        for _ in range(15):
            started = time.perf_counter()
            optimizer.step(pairs)
            times.append(time.perf_counter() - started)
        return min(times)

    assert best_step(2_000_000) < 3 * best_step(20_000) + 1e-3
