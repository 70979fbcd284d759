"""InfoNCE against a loop, with false negatives left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from encoders.infonce import InfoNCE, false_negatives

TEMPERATURE = 0.1


def unit(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=1)


def loss_by_loop(anchors_PE: Tensor, positives_PE: Tensor, *groups_P: Tensor) -> float:
    """Both directions, pair by pair, in double precision."""
    a, p = anchors_PE.double().numpy(), positives_PE.double().numpy()
    total = 0.0
    for i in range(len(a)):
        for one, many in ((a[i], p), (p[i], a)):
            kept = [
                j for j in range(len(a))
                if j == i or not any(g[i] == g[j] and g[i] >= 0 for g in groups_P)
            ]  # fmt: skip
            scores = {j: math.exp(float(one @ many[j]) / TEMPERATURE) for j in kept}
            total -= math.log(scores[i] / sum(scores.values())) / 2
    return total / len(a)


@pytest.mark.parametrize(
    "groups",
    [
        [],
        [[0, 1, 0, 2, 3, 2]],
        [[0, 1, 2, 3, 4, 5], [7, 7, -1, -1, 8, 8]],
        [[0, 0, 0, 0, 0, 0]],
        [[-1] * 6],
    ],
)
def test_the_loss_is_that_of_a_loop_over_pairs(groups: list[list[int]]) -> None:
    anchors_PE, positives_PE = unit(6, 1), unit(6, 2)
    groups_P = [torch.tensor(group) for group in groups]
    loss = InfoNCE(TEMPERATURE)(anchors_PE, positives_PE, *groups_P)
    assert float(loss.detach()) == pytest.approx(loss_by_loop(anchors_PE, positives_PE, *groups_P), abs=1e-5)


def test_pairs_of_one_group_do_not_push_each_other_away() -> None:
    anchors_PE, positives_PE = unit(4, 1).requires_grad_(), unit(4, 2)
    InfoNCE()(anchors_PE, positives_PE, torch.tensor([5, 5, 6, 7])).backward()
    apart = torch.tensor([5, 5, 5, 5])
    with_all = InfoNCE()(anchors_PE, positives_PE, apart)
    assert float(with_all.detach()) == 0.0
    assert anchors_PE.grad is not None
    assert torch.isfinite(anchors_PE.grad).all()
    mask_PP = false_negatives(torch.tensor([5, 5, 6, 7]))
    assert mask_PP.nonzero().tolist() == [[0, 1], [1, 0]]


def test_an_anchor_is_not_pushed_away_from_itself_as_another_pairs_positive() -> None:
    # Pairs a->b, c->a, a->d and a query without a catalogue item ->b.
    positive, own = torch.tensor([1, 0, 3, 1]), torch.tensor([0, 2, 0, -1])
    mask_PP = false_negatives(positive, own_P=own)
    assert mask_PP.nonzero().tolist() == [[0, 1], [0, 2], [0, 3], [2, 0], [2, 1], [3, 0]]


def test_the_loss_and_its_gradient_are_finite_if_all_pairs_share_a_group() -> None:
    anchors_PE = unit(5, 1).requires_grad_()
    module = InfoNCE()
    loss = module(anchors_PE, unit(5, 2), torch.zeros(5, dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert anchors_PE.grad is not None
    assert not anchors_PE.grad.any()
    assert module.log_scale.grad is not None
    assert torch.isfinite(module.log_scale.grad)


def test_the_temperature_learns_and_stays_within_bounds() -> None:
    module = InfoNCE(0.07)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    anchors_PE = unit(8, 1)
    start = float(module.scale().detach())
    assert start == pytest.approx(1 / 0.07)
    for _ in range(5):
        optimizer.zero_grad()
        module(anchors_PE, anchors_PE).backward()  # every anchor finds its own: sharper is better
        optimizer.step()
    assert float(module.scale().detach()) > start
    with torch.no_grad():
        module.log_scale.fill_(50.0)
    assert float(module.scale().detach()) == np.float32(100)
