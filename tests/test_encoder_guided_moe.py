"""The guided mixture of experts agrees with a reference that runs every expert on every token, starts as the
dense part it is made of, and obeys the aspects.

Shapes: N tokens, D width, X experts, R routed experts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2MLP

from encoders.fusion import FeedForward
from encoders.grouped_experts import StackedLinear
from encoders.guided_moe import GuidedMoE
from encoders.products import Aspect

WIDTH = 16


def compact_part() -> nn.Module:
    """The compact backbone's part; its `down` starts at zero, which would make any two of them equal."""
    part = FeedForward(WIDTH, 2)
    nn.init.normal_(part.down.weight, std=0.3)
    nn.init.normal_(part.down.bias)
    return part


def language_model_part() -> nn.Module:
    return Qwen2MLP(Qwen2_5_VLTextConfig(hidden_size=WIDTH, intermediate_size=24, hidden_act="silu"))


def dense_output(part: nn.Module, x_ND: Tensor) -> Tensor:
    return part(x_ND, None, None) if isinstance(part, FeedForward) else part(x_ND)


PARTS = [compact_part, language_model_part]
each_part = pytest.mark.parametrize("make", PARTS)


def tokens(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, their aspects and a mask with some padding."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, WIDTH, generator=generator),
        torch.randint(len(Aspect), (count,), generator=generator),
        torch.rand(count, generator=generator) < 0.8,
    )


def trained(part: nn.Module, experts: int, experts_per_token: int, *, guided: bool = True) -> GuidedMoE:
    """Experts that have come apart, in double precision."""
    moe = GuidedMoE.upcycle(
        part, width=WIDTH, experts=experts, experts_per_token=experts_per_token, guided=guided
    ).double()
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return moe


def reference_gates(moe: GuidedMoE, x_ND: Tensor, aspect_N: Tensor, mask_N: Tensor) -> Tensor:
    """The gates (N, X) token by token, as the definition says."""
    rows = []
    for x_D, aspect, seen in zip(x_ND, aspect_N.tolist(), mask_N.tolist(), strict=True):
        gate_X = x_ND.new_zeros(len(moe.router) + moe.forced)
        if seen and moe.forced and aspect in (Aspect.CATEGORY, Aspect.ATTRIBUTES):
            gate_X[0 if aspect == Aspect.CATEGORY else 1] = 1
        elif seen:
            best = (moe.router @ x_D).topk(moe.experts_per_token)
            gates = best.values.softmax(0)
            if moe.experts_per_token == 1:
                probability = (moe.router @ x_D).softmax(0).max()
                gates = (probability / probability.detach())[None]
            gate_X = gate_X.index_put((best.indices + moe.forced,), gates)
        rows.append(gate_X)
    return torch.stack(rows)


def reference_output(moe: GuidedMoE, x_ND: Tensor, aspect_N: Tensor, mask_N: Tensor) -> Tensor:
    """Every expert on every token, weighted by gates that are mostly 0."""
    gate_NX = reference_gates(moe, x_ND, aspect_N, mask_N)

    def of_expert(expert: int) -> Callable[[StackedLinear, Tensor], Tensor]:
        def linear(layer: StackedLinear, x: Tensor) -> Tensor:
            y = x @ layer.weight[expert].T
            return y if layer.bias is None else y + layer.bias[expert]

        return linear

    output_XND = torch.stack(
        [moe.experts.feed_forward(x_ND, of_expert(expert)) for expert in range(gate_NX.shape[1])]
    )
    return torch.einsum("nx,xnd->nd", gate_NX, output_XND)


def gradients(moe: GuidedMoE, output: Callable[..., Tensor], x_ND: Tensor, *rest: Tensor) -> list[Tensor]:
    """The output, then the gradients of a sum of its squares by the tokens, the router and the experts."""
    x_ND = x_ND.detach().clone().requires_grad_()
    y_ND = output(x_ND, *rest)
    return [y_ND, *torch.autograd.grad((y_ND**2).sum(), [x_ND, *moe.parameters()])]


def assert_all_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-9) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@each_part
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize(("experts", "experts_per_token"), [(3, 1), (6, 1), (6, 2), (6, 3), (4, 2)])
def test_outputs_and_gradients_are_those_of_running_every_expert_on_every_token(
    make: Callable[[], nn.Module], experts: int, experts_per_token: int, guided: bool
) -> None:
    torch.manual_seed(1)
    moe = trained(make(), experts, experts_per_token, guided=guided)
    x_ND, aspect_N, mask_N = tokens(60)
    found = gradients(moe, moe, x_ND.double(), aspect_N, mask_N)
    expected = gradients(moe, lambda *of: reference_output(moe, *of), x_ND.double(), aspect_N, mask_N)
    assert_all_close(found, expected)
    # Among one routed expert there is nothing that a router could learn.
    assert (found[2].abs().max() > 0) == (len(moe.router) > 1)


@each_part
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 40),
    routed=st.integers(1, 5),
    experts_per_token=st.integers(1, 5),
    guided=st.booleans(),
)
def test_copies_give_the_dense_output_wherever_the_tokens_go(
    make: Callable[[], nn.Module], seed: int, count: int, routed: int, experts_per_token: int, guided: bool
) -> None:
    torch.manual_seed(seed)
    part = make()
    moe = GuidedMoE.upcycle(
        part,
        width=WIDTH,
        experts=routed + (2 if guided else 0),
        experts_per_token=min(experts_per_token, routed),
        guided=guided,
    )
    x_ND, aspect_N, mask_N = tokens(count, seed)
    expected_ND = dense_output(part, x_ND).masked_fill(~mask_N[:, None], 0)
    torch.testing.assert_close(moe(x_ND, aspect_N, mask_N), expected_ND, rtol=1e-5, atol=1e-5)


@each_part
def test_under_autocast_copies_give_the_dense_output_in_its_precision(make: Callable[[], nn.Module]) -> None:
    part = make()
    moe = GuidedMoE.upcycle(part, width=WIDTH, experts=6)
    x_ND, aspect_N, _ = tokens(60)
    with torch.autocast("cpu", torch.bfloat16):
        found_ND, expected_ND = moe(x_ND, aspect_N), dense_output(part, x_ND)
    assert found_ND.dtype == expected_ND.dtype == torch.bfloat16
    torch.testing.assert_close(found_ND, expected_ND, rtol=2e-2, atol=2e-2)
    assert moe.statistics is not None
    assert moe.statistics.probability_X.dtype == torch.float32


@pytest.fixture
def _fresh_memory_holds_nan() -> Iterator[None]:
    """What torch allocates without writing to it is NaN, where it is otherwise what the memory held."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_fresh_memory_holds_nan")
@each_part
def test_the_grouped_kernel_agrees_with_one_product_per_expert(make: Callable[[], nn.Module]) -> None:
    moe = trained(make(), 6, 2).float()
    x_ND, _, _ = tokens(64)
    gate_NK = torch.rand(64, 2)
    expert_NK = torch.randint(7, (64, 2))
    gate_NK[expert_NK == 6] = 0
    count_X = torch.bincount(expert_NK.flatten(), minlength=7)[:6]

    def run(kernel: bool) -> Callable[[Tensor], Tensor]:
        return lambda x: moe.experts.run(x, expert_NK, gate_NK, count_X, kernel=kernel) + 0 * moe.router.sum()

    assert_all_close(gradients(moe, run(True), x_ND), gradients(moe, run(False), x_ND), tolerance=1e-3)


@each_part
def test_the_category_expert_serves_category_tokens_and_the_attribute_expert_attribute_tokens(
    make: Callable[[], nn.Module],
) -> None:
    moe = GuidedMoE.upcycle(make(), width=WIDTH, experts=5)
    x_ND, aspect_N, _ = tokens(80)
    before_ND = moe(x_ND, aspect_N).detach()
    for expert, aspect in ((0, Aspect.CATEGORY), (1, Aspect.ATTRIBUTES)):
        changed = copy.deepcopy(moe)
        with torch.no_grad():
            for parameter in changed.experts.parameters():
                parameter[expert] += 0.1
        moved_N = (changed(x_ND, aspect_N) - before_ND).abs().amax(1) > 1e-4
        assert torch.equal(moved_N, aspect_N == aspect)


def test_unguided_every_expert_serves_tokens_of_every_aspect() -> None:
    torch.manual_seed(3)
    moe = GuidedMoE.upcycle(compact_part(), width=WIDTH, experts=4, guided=False)
    assert (moe.forced, len(moe.router)) == (0, 4)
    moe(*tokens(600))
    assert moe.statistics is not None
    assert moe.statistics.aspect_counts_AX.min() > 0


def test_padding_yields_zeros_and_changes_nothing_else() -> None:
    moe = trained(compact_part(), 5, 2)
    x_ND, aspect_N, mask_N = tokens(50)
    x_ND = x_ND.double()
    y_ND = moe(x_ND, aspect_N, mask_N)
    torch.testing.assert_close(y_ND[mask_N], moe(x_ND[mask_N], aspect_N[mask_N]))
    assert not y_ND[~mask_N].any()
    assert not moe(x_ND, aspect_N, torch.zeros_like(mask_N)).any()


def test_batched_and_flat_tokens_are_the_same() -> None:
    moe = trained(compact_part(), 5, 2)
    x_ND, aspect_N, mask_N = tokens(60)
    flat = moe(x_ND.double(), aspect_N, mask_N)
    batched = moe(x_ND.double().view(6, 10, WIDTH), aspect_N.view(6, 10), mask_N.view(6, 10))
    assert torch.equal(batched, flat.view(6, 10, WIDTH))


def test_the_same_seed_gives_the_same_bits() -> None:
    def train() -> list[Tensor]:
        torch.manual_seed(5)
        moe = GuidedMoE.upcycle(compact_part(), width=WIDTH, experts=6)
        return gradients(moe, moe, *tokens(500))

    assert all(torch.equal(one, other) for one, other in zip(train(), train(), strict=True))


@pytest.mark.parametrize("experts_per_token", [1, 2])
def test_training_tells_the_experts_apart_and_moves_the_router(experts_per_token: int) -> None:
    torch.manual_seed(0)
    moe = GuidedMoE.upcycle(compact_part(), width=WIDTH, experts=6, experts_per_token=experts_per_token)
    start = moe.router.detach().clone()
    x_ND, aspect_N, _ = tokens(200)
    target_ND = x_ND.abs()
    optimizer = torch.optim.Adam(moe.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = nn.functional.mse_loss(moe(x_ND, aspect_N), target_ND)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert (moe.router - start).abs().amax(1).min() > 1e-3
    for parameter in moe.experts.parameters():
        assert torch.pdist(parameter.detach().flatten(1)).min() > 0.01


def test_checkpointing_changes_no_gradient_and_its_second_forward_leaves_no_statistics() -> None:
    moe = trained(compact_part(), 6, 2)
    x_ND, aspect_N, mask_N = tokens(60)

    def by_checkpoint(*of: Tensor) -> Tensor:
        y_ND = checkpoint(moe, *of, use_reentrant=False)
        assert isinstance(y_ND, Tensor)
        return y_ND

    plain = gradients(moe, moe, x_ND.double(), aspect_N, mask_N)
    saved = gradients(moe, by_checkpoint, x_ND.double(), aspect_N, mask_N)
    assert all(torch.equal(one, other) for one, other in zip(saved, plain, strict=True))

    y_ND = by_checkpoint(x_ND.double(), aspect_N, mask_N)
    kept = moe.statistics
    y_ND.sum().backward()
    assert moe.statistics is kept


def test_a_copy_after_a_forward_pass_and_reloaded_weights_give_the_same_output() -> None:
    moe = trained(language_model_part(), 5, 2)
    x_ND, aspect_N, mask_N = tokens(30)
    expected = moe(x_ND.double(), aspect_N, mask_N)
    fresh = GuidedMoE.upcycle(language_model_part(), width=WIDTH, experts=5).double()
    fresh.load_state_dict(moe.state_dict())
    for other in (copy.deepcopy(moe), fresh):
        assert torch.equal(other(x_ND.double(), aspect_N, mask_N), expected)


def test_frozen_parts_make_frozen_experts_and_a_router_that_trains() -> None:
    moe = GuidedMoE.upcycle(compact_part().requires_grad_(False), width=WIDTH, experts=4)
    assert [name for name, parameter in moe.named_parameters() if parameter.requires_grad] == ["router"]


@pytest.mark.parametrize(
    "part",
    [
        nn.Sequential(nn.Linear(WIDTH, WIDTH)),
        nn.ModuleDict({"up": nn.Linear(4, 4), "down": nn.Bilinear(4, 4, 4)}),
    ],
    ids=["other layers", "a layer of another type"],
)
def test_an_unknown_feed_forward_part_is_refused(part: nn.Module) -> None:
    with pytest.raises(TypeError, match="cannot make experts of"):
        GuidedMoE.upcycle(part, width=WIDTH, experts=4)


@pytest.mark.parametrize(
    ("experts", "experts_per_token", "guided"),
    [(2, 1, True), (4, 3, True), (4, 0, True), (0, 1, False), (3, 4, False)],
)
def test_numbers_of_experts_that_do_not_fit_are_refused(
    experts: int, experts_per_token: int, guided: bool
) -> None:
    with pytest.raises(ValueError, match="experts"):
        GuidedMoE.upcycle(
            compact_part(), width=WIDTH, experts=experts, experts_per_token=experts_per_token, guided=guided
        )
