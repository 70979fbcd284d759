"""What the guided mixture of experts counts, and the loss that evens the use of its routed experts.

Shapes: N tokens, A aspects, X experts, R routed experts.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encoders.fusion import FeedForward
from encoders.guided_moe import GuidedMoE, RouterStatistics, balance_loss
from encoders.products import Aspect

WIDTH = 16


def guided(experts: int = 6, experts_per_token: int = 2) -> GuidedMoE:
    torch.manual_seed(0)
    return GuidedMoE.upcycle(
        FeedForward(WIDTH, 2), width=WIDTH, experts=experts, experts_per_token=experts_per_token
    )


def statistics_of(moe: GuidedMoE, *of: Tensor) -> RouterStatistics:
    moe(*of)
    assert moe.statistics is not None
    return moe.statistics


def tokens(count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return (
        torch.randn(count, WIDTH, generator=generator),
        torch.randint(len(Aspect), (count,), generator=generator),
        torch.rand(count, generator=generator) < 0.8,
    )


@pytest.mark.parametrize("experts_per_token", [1, 3])
def test_statistics_count_each_seen_token_once_per_expert(experts_per_token: int) -> None:
    moe = guided(experts_per_token=experts_per_token)
    x_ND, aspect_N, mask_N = tokens(70)
    found = statistics_of(moe, x_ND, aspect_N, mask_N)

    counts_AX, probability_X, routed = torch.zeros(len(Aspect), 6), torch.zeros(4), 0
    for x_D, aspect in zip(x_ND[mask_N], aspect_N[mask_N].tolist(), strict=True):
        forced = {Aspect.CATEGORY: 0, Aspect.ATTRIBUTES: 1}.get(aspect)
        if forced is not None:
            counts_AX[aspect, forced] += 1
            continue
        logit_R = moe.router.detach() @ x_D
        counts_AX[aspect, logit_R.topk(experts_per_token).indices + 2] += 1
        probability_X += logit_R.softmax(0)
        routed += 1

    assert torch.equal(found.aspect_counts_AX.float(), counts_AX)
    assert torch.equal(found.count_X, counts_AX[:, 2:].sum(0))
    assert found.tokens.item() == routed
    torch.testing.assert_close(found.probability_X, probability_X)


def test_even_use_costs_1_and_the_use_of_one_expert_the_number_of_experts() -> None:
    nothing = torch.zeros(0)
    even = RouterStatistics(torch.full((4,), 30.0), torch.full((4,), 15.0), torch.tensor(60.0), nothing)
    one = torch.tensor([60.0, 0, 0, 0])
    single = RouterStatistics(one, one, torch.tensor(60.0), nothing)
    assert balance_loss([even]).item() == pytest.approx(1)
    assert balance_loss([single]).item() == pytest.approx(4)
    assert balance_loss([even, single]).item() == pytest.approx(2.5)


def test_the_losses_of_chunks_and_their_gradients_sum_to_those_of_the_batch() -> None:
    moe, (x_ND, aspect_N, mask_N) = guided(), tokens(90)
    whole = balance_loss([statistics_of(moe, x_ND, aspect_N, mask_N)])
    (gradient,) = torch.autograd.grad(whole, moe.router)

    chunks = [
        statistics_of(moe, *of)
        for of in zip(x_ND.split(40), aspect_N.split(40), mask_N.split(40), strict=True)
    ]
    totals = [
        (torch.stack([c.count_X for c in chunks]).sum(0), torch.stack([c.tokens for c in chunks]).sum())
    ]
    parts = [balance_loss([one], totals) for one in chunks]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)
    torch.testing.assert_close(torch.autograd.grad(torch.stack(parts).sum(), moe.router)[0], gradient)


def test_minimising_it_evens_the_use_of_the_routed_experts() -> None:
    moe, (x_ND, aspect_N, _) = guided(experts=8), tokens(400)
    x_ND = x_ND + 1
    with torch.no_grad():
        moe.router[:2] += 0.2
    optimizer = torch.optim.Adam([moe.router], 1e-2)
    before = statistics_of(moe, x_ND, aspect_N)
    for _ in range(150):
        loss = balance_loss([statistics_of(moe, x_ND, aspect_N)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = statistics_of(moe, x_ND, aspect_N)
    assert before.count_X[:2].sum() > 0.8 * before.count_X.sum()
    assert after.count_X.max() < 1.5 * after.count_X.mean()


def test_a_batch_without_routed_tokens_costs_nothing_and_gives_no_nan() -> None:
    moe, (x_ND, aspect_N, _) = guided(), tokens(20)
    loss = balance_loss([statistics_of(moe, x_ND, torch.full_like(aspect_N, Aspect.CATEGORY))])
    loss.backward()
    assert loss.item() == 0
    assert moe.router.grad is not None
    assert not moe.router.grad.any()


def test_without_layers_or_with_totals_of_other_layers_there_is_no_loss() -> None:
    statistics = statistics_of(guided(), *tokens(20))
    for layers, totals in (([], None), ([statistics], [])):
        with pytest.raises(ValueError, match=r"no layer|zip"):
            balance_loss(layers, totals)


def test_statistics_of_an_evaluation_hold_no_graph() -> None:
    with torch.no_grad():
        statistics = statistics_of(guided(), *tokens(20))
    assert not statistics.probability_X.requires_grad
