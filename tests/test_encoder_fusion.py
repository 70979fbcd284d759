"""The fusion transformer looks in both directions and never at padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encoders.fusion import FusionTransformer, masked_mean
from encoders.guided_moe import GuidedMoE


def fusion(*, random: bool) -> FusionTransformer:
    torch.manual_seed(0)
    module = FusionTransformer(width=16, layers=2, heads=4, ratio=2)
    if random:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.5)
    return module


def tokens() -> tuple[Tensor, Tensor, Tensor]:
    mask_BT = torch.tensor([[True] * 6, [True, True, True, True, False, False]])
    return torch.randn(2, 6, 16), mask_BT, torch.zeros(2, 6, dtype=torch.long)


def test_at_step_0_tokens_pass_through_unchanged() -> None:
    x_BTD, mask_BT, aspect_BT = tokens()
    assert torch.equal(fusion(random=False)(x_BTD, mask_BT, aspect_BT), x_BTD)


def test_a_later_token_changes_earlier_outputs_and_an_earlier_one_later_outputs() -> None:
    module, (x_BTD, mask_BT, aspect_BT) = fusion(random=True), tokens()
    before = module(x_BTD, mask_BT, aspect_BT)
    for place in (0, 5):
        changed = x_BTD.clone()
        changed[0, place] = torch.randn(16)
        after = module(changed, mask_BT, aspect_BT)
        assert (after[0] - before[0]).abs().amax(1).min() > 1e-4
        assert torch.equal(after[1], before[1])


def test_padding_is_never_attended_to() -> None:
    module, (x_BTD, mask_BT, aspect_BT) = fusion(random=True), tokens()
    before = module(x_BTD, mask_BT, aspect_BT)
    changed = x_BTD.clone()
    changed[1, 4:] = 100.0
    after = module(changed, mask_BT, aspect_BT)
    torch.testing.assert_close(after[1, :4], before[1, :4], atol=0, rtol=0)
    cut = module(x_BTD[1:, :4], mask_BT[1:, :4], aspect_BT[1:, :4])
    torch.testing.assert_close(cut[0], before[1, :4], atol=1e-5, rtol=1e-5)


def test_a_product_with_nothing_stays_finite_and_leaves_the_gradients_finite() -> None:
    module, (x_BTD, mask_BT, aspect_BT) = fusion(random=True), tokens()
    mask_BT[1] = False
    pooled_BD = masked_mean(module(x_BTD, mask_BT, aspect_BT), mask_BT)
    assert not pooled_BD[1].any()
    pooled_BD.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("guided", [True, False])
def test_upcycled_it_gives_the_output_of_the_dense_one(guided: bool) -> None:
    module, of = fusion(random=True), tokens()
    dense = module(*of)
    module.upcycle(4, 2, guided=guided)
    assert [one.forced for one in module.modules() if isinstance(one, GuidedMoE)] == [2 * guided] * 2
    # Padding goes to no expert; nobody looks at it.
    seen_BT = of[1]
    torch.testing.assert_close(module(*of)[seen_BT], dense[seen_BT], atol=1e-5, rtol=1e-5)


def test_masked_mean_is_the_mean_of_what_is_there() -> None:
    x_BTD, mask_BT, _ = tokens()
    torch.testing.assert_close(masked_mean(x_BTD, mask_BT)[1], x_BTD[1, :4].mean(0))
