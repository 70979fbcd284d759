"""What the guided mixture of experts counts, and the loss that evens the use of its routed experts.

Shapes: B products, T tokens, D width, N tokens of all products, A aspects, X experts, R routed experts.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encoders.fusion import FeedForward
from encoders.guided_moe import GuidedMoE, RouterStatistics, balance_loss
from encoders.products import Aspect

WIDTH = 16


def mixture(experts: int = 6, experts_per_token: int = 2, *, guided: bool = True) -> GuidedMoE:
    torch.manual_seed(0)
    return GuidedMoE.upcycle(
        FeedForward(WIDTH, 2),
        width=WIDTH,
        experts=experts,
        experts_per_token=experts_per_token,
        guided=guided,
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


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("experts_per_token", [1, 3])
def test_statistics_count_each_seen_token_once_per_expert(experts_per_token: int, guided: bool) -> None:
    moe = mixture(experts_per_token=experts_per_token, guided=guided)
    x_ND, aspect_N, mask_N = tokens(70)
    found = statistics_of(moe, x_ND, aspect_N, mask_N)

    first = 2 if guided else 0
    counts_AX, probability_X, routed = torch.zeros(len(Aspect), 6), torch.zeros(6 - first), 0
    for x_D, aspect in zip(x_ND[mask_N], aspect_N[mask_N].tolist(), strict=True):
        forced = {Aspect.CATEGORY: 0, Aspect.ATTRIBUTES: 1}.get(aspect) if guided else None
        if forced is not None:
            counts_AX[aspect, forced] += 1
            continue
        logit_R = moe.router.detach() @ x_D
        counts_AX[aspect, logit_R.topk(experts_per_token).indices + first] += 1
        probability_X += logit_R.softmax(0)
        routed += 1

    assert torch.equal(found.aspect_counts_AX.float(), counts_AX)
    assert torch.equal(found.count_X, counts_AX[:, first:].sum(0))
    assert found.tokens.item() == routed
    torch.testing.assert_close(found.probability_X, probability_X)


def brute_force_gates(moe: GuidedMoE, x_TD: Tensor, aspects: list[int], seen: list[bool]) -> Tensor:
    """The mean gates (R,) of one product's routed tokens, token by token."""
    rows = []
    for x_D, aspect, is_seen in zip(x_TD, aspects, seen, strict=True):
        if not is_seen or (moe.forced and aspect in (Aspect.CATEGORY, Aspect.ATTRIBUTES)):
            continue
        best = (moe.router.detach() @ x_D).topk(moe.experts_per_token)
        rows.append(torch.zeros(len(moe.router)).index_put((best.indices,), best.values.softmax(0)))
    return torch.stack(rows).mean(0) if rows else torch.zeros(len(moe.router))


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("experts_per_token", [1, 2])
def test_the_gates_of_a_product_are_the_mean_over_its_routed_tokens(
    experts_per_token: int, guided: bool
) -> None:
    moe = mixture(experts_per_token=experts_per_token, guided=guided)
    x_BTD, aspect_BT, mask_BT = (one.unflatten(0, (9, 7)) for one in tokens(63))
    aspect_BT[3], mask_BT[5] = int(Aspect.ATTRIBUTES), False
    gate_BR = statistics_of(moe, x_BTD, aspect_BT, mask_BT).gate_BR
    expected = zip(x_BTD, aspect_BT.tolist(), mask_BT.tolist(), strict=True)
    torch.testing.assert_close(gate_BR, torch.stack([brute_force_gates(moe, *one) for one in expected]))
    unrouted = {3, 5} if guided else {5}
    for number, total in enumerate(gate_BR.sum(1).tolist()):
        assert total == (0 if number in unrouted else pytest.approx(1))


def test_flat_tokens_are_products_of_one_token() -> None:
    moe, of = mixture(), tokens(30)
    flat = statistics_of(moe, *of).gate_BR
    assert torch.equal(flat, statistics_of(moe, *(one[:, None] for one in of)).gate_BR)


@pytest.mark.parametrize("experts_per_token", [1, 2])
def test_the_gates_of_products_teach_the_router(experts_per_token: int) -> None:
    moe, (x_ND, aspect_N, mask_N) = mixture(experts_per_token=experts_per_token), tokens(40)
    gate_BR = statistics_of(moe, x_ND, aspect_N, mask_N).gate_BR
    (gradient,) = torch.autograd.grad((gate_BR * torch.arange(4.0)).sum(), moe.router)
    assert gradient.abs().amax(1).min() > 1e-4


def test_even_use_costs_1_and_the_use_of_one_expert_the_number_of_experts() -> None:
    nothing = torch.zeros(0)

    def of(count_X: Tensor, probability_X: Tensor) -> RouterStatistics:
        return RouterStatistics(count_X, probability_X, torch.tensor(60.0), nothing, nothing)

    even = of(torch.full((4,), 30.0), torch.full((4,), 15.0))
    one = torch.tensor([60.0, 0, 0, 0])
    single = of(one, one)
    assert balance_loss([even]).item() == pytest.approx(1)
    assert balance_loss([single]).item() == pytest.approx(4)
    assert balance_loss([even, single]).item() == pytest.approx(2.5)


def test_the_losses_of_chunks_and_their_gradients_sum_to_those_of_the_batch() -> None:
    moe, (x_ND, aspect_N, mask_N) = mixture(), tokens(90)
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
    moe, (x_ND, aspect_N, _) = mixture(experts=8), tokens(400)
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
    moe, (x_ND, aspect_N, _) = mixture(), tokens(20)
    loss = balance_loss([statistics_of(moe, x_ND, torch.full_like(aspect_N, Aspect.CATEGORY))])
    loss.backward()
    assert loss.item() == 0
    assert moe.router.grad is not None
    assert not moe.router.grad.any()


def test_without_layers_or_with_totals_of_other_layers_there_is_no_loss() -> None:
    statistics = statistics_of(mixture(), *tokens(20))
    for layers, totals in (([], None), ([statistics], [])):
        with pytest.raises(ValueError, match=r"no layer|zip"):
            balance_loss(layers, totals)


def test_statistics_of_an_evaluation_hold_no_graph() -> None:
    with torch.no_grad():
        statistics = statistics_of(mixture(), *tokens(20))
    assert not statistics.probability_X.requires_grad
