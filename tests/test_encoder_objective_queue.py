"""The queue of past items: first in, first out, each product once, restored to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_helpers import items

from encoders.objective.negative_queue import NegativeQueue


def vectors(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None].repeat(1, 2)


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(0, 7),
    pushes=st.lists(st.lists(st.integers(-1, 9), max_size=6), max_size=6),
)
def test_it_holds_the_latest_distinct_products(capacity: int, pushes: list[list[int]]) -> None:
    queue, stamp = NegativeQueue(capacity, 2), 0
    expected: list[tuple[int, int]] = []  # product and stamp, oldest first
    for products in pushes:
        stamps = list(range(stamp, stamp + len(products)))
        stamp += len(products)
        queue.push(vectors(stamps), items(products, stamps))
        for product, when in zip(products, stamps, strict=True):
            expected = [entry for entry in expected if product < 0 or entry[0] != product] + [(product, when)]
        # Room is made after a whole batch.
        expected = expected[-capacity:] if capacity else []
    assert queue.labels.product_N.tolist() == [product for product, _ in expected]
    assert queue.labels.text_N.tolist() == [when for _, when in expected]
    assert queue.vectors_QE[:, 0].tolist() == [float(when) for _, when in expected]


def test_queued_vectors_are_cut_from_the_graph_and_from_the_callers_memory() -> None:
    queue, x = NegativeQueue(4, 2), vectors([1, 2]).requires_grad_()
    queue.push(x * 1, items([1, 2]))
    assert not queue.vectors_QE.requires_grad
    own = vectors([3])
    queue.push(own, items([3]))
    own.zero_()
    assert queue.vectors_QE[:, 0].tolist() == [1, 2, 3]


def test_a_restored_queue_goes_on_as_the_saved_one(tmp_path: object) -> None:
    queue, other = NegativeQueue(5, 2), NegativeQueue(5, 2)
    queue.push(vectors([1, 2, 3, 4]), items([1, 2, 3, 4], [5, 6, 7, 8]))
    torch.save(queue.state_dict(), f"{tmp_path}/queue.pt")
    other.load_state_dict(torch.load(f"{tmp_path}/queue.pt", weights_only=True))
    for each in (queue, other):
        each.push(vectors([9, 10, 11]), items([2, 9, 9]))
    assert queue.labels.product_N.tolist() == [1, 3, 4, 2, 9]
    for name, value in queue.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize(("capacity", "dim"), [(2, 2), (5, 3)])
def test_a_queue_of_another_shape_is_not_restored(capacity: int, dim: int) -> None:
    queue = NegativeQueue(5, 2)
    queue.push(vectors([1, 2, 3]), items([1, 2, 3]))
    with pytest.raises(ValueError, match="saved queue"):
        NegativeQueue(capacity, dim).load_state_dict(queue.state_dict())
