"""The weights of the objectives of the query modalities, and the gates that they are made of on their way
from the experts through a training step.

Shapes: A samples of one objective, B products, E embedding width, R routed experts, M objectives.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mllm_case import product
from objective_toy import WIDTH, ToyEncoder, pieces, toy_products
from torch import Tensor, nn

from encoders.dual import DualEncoder, DualOptions
from encoders.objective.encode_step import EncodeStep
from encoders.objective.gradient_cache import contrastive_step
from encoders.objective.modality_weights import ModalityWeights
from encoders.products import EVERYTHING, IMAGE_ONLY, Product, View

CPU = torch.device("cpu")
ROUTED = 3


def weights(experts: int = 4, seed: int = 0) -> ModalityWeights:
    """With experts that have taken sides, in double precision."""
    module = ModalityWeights(experts).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        module.matrix_RM.copy_(torch.randn(experts, 3, generator=generator))
    return module


def random_gates(counts: list[int], experts: int = 4, seed: int = 0) -> list[Tensor]:
    """Gates on the best two experts of each sample."""
    generator = torch.Generator().manual_seed(seed)
    gates = []
    for count in counts:
        best = torch.randn(count, experts, generator=generator, dtype=torch.float64).topk(2)
        gates.append(torch.zeros(count, experts).double().scatter(1, best.indices, best.values.softmax(1)))
    return gates


def brute_force(module: ModalityWeights, gates: list[Tensor]) -> list[float]:
    share_RM = module.shares().tolist()
    return [
        sum(share_RM[r][m] * gate for row in gate_AR.tolist() for r, gate in enumerate(row)) / len(gate_AR)
        if len(gate_AR)
        else 0.0
        for m, gate_AR in enumerate(gates)
    ]


samples = st.lists(st.integers(0, 6), min_size=3, max_size=3)


@settings(max_examples=40, deadline=None)
@given(counts=samples, seed=st.integers(0, 10**6))
def test_weights_are_the_mean_over_samples_of_the_gated_shares(counts: list[int], seed: int) -> None:
    module, gates = weights(seed=seed), random_gates(counts, seed=seed)
    omega_M = module(gates)
    assert omega_M.tolist() == pytest.approx(brute_force(module, gates))
    share_RM = module.shares()
    torch.testing.assert_close(share_RM.sum(1), torch.ones(4).double())
    for m, count in enumerate(counts):
        if count:
            assert 0 < share_RM[:, m].min() - 1e-12 <= omega_M[m] <= share_RM[:, m].max() + 1e-12 < 1
        else:
            assert omega_M[m] == 0


@settings(max_examples=30, deadline=None)
@given(counts=samples, seed=st.integers(0, 10**6))
def test_with_equal_gates_the_weights_of_what_is_there_sum_to_1_at_most(counts: list[int], seed: int) -> None:
    (row_1R,) = random_gates([1], seed=seed)
    total = float(weights(seed=seed)([row_1R.expand(count, -1) for count in counts]).sum().detach())
    if all(counts):
        assert total == pytest.approx(1)
    else:
        assert total < 1


def test_they_start_nearly_even_and_the_same_every_time() -> None:
    module = ModalityWeights(6)
    assert (module.shares() - 1 / 3).abs().max() < 0.02
    torch.randn(1)
    assert torch.equal(module.matrix_RM, ModalityWeights(6).matrix_RM)


def test_an_absent_modality_weighs_nothing_and_leaves_the_gradients_finite() -> None:
    module, gates = weights(), [one.requires_grad_() for one in random_gates([3, 0, 5])]
    omega_M = module(gates)
    assert omega_M[1].item() == 0
    (omega_M * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    found = [module.matrix_RM.grad, *(one.grad for one in gates)]
    assert all(one is not None and torch.isfinite(one).all() for one in found)
    nothing = module([one[:0] for one in gates])
    assert nothing.tolist() == [0, 0, 0]


def test_samples_without_routed_tokens_count_as_routed_evenly() -> None:
    module = weights()
    one, two, _ = random_gates([2, 2, 2])
    silent = torch.zeros(3, 4).double().requires_grad_()
    omega_M = module([one, torch.cat([two, silent]), silent])
    even = torch.full((3, 4), 0.25).double()
    torch.testing.assert_close(omega_M, module([one, torch.cat([two, even]), even]))
    omega_M.sum().backward()
    assert silent.grad is not None
    assert not silent.grad.any()


def test_gates_of_another_number_of_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="2 objectives, weights of 3"):
        weights()(random_gates([1, 1]))


def test_minimising_the_sparsity_gives_every_expert_to_one_objective() -> None:
    module = ModalityWeights(6)
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    start = module.sparsity().item()
    assert start == pytest.approx(np.log(3), abs=1e-3)
    for _ in range(200):
        loss = module.sparsity()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert module.sparsity() < 0.01
    assert module.shares().max(1).values.min() > 0.99


def test_the_entropy_of_shares_of_0_is_finite_and_so_is_its_gradient() -> None:
    module = ModalityWeights(2)
    with torch.no_grad():
        module.matrix_RM.copy_(torch.tensor([[200.0, 0, 0], [0, 0, 0]]))
    module.sparsity().backward()
    assert module.sparsity().item() == pytest.approx(np.log(3) / 2)
    assert module.matrix_RM.grad is not None
    assert torch.isfinite(module.matrix_RM.grad).all()


def joint_loss(module: ModalityWeights, vectors_BE: Tensor) -> Tensor:
    """Weighted objectives of three modalities, of which the last columns of the vectors are the gates."""
    unit_BE, gate_BR = vectors_BE.split([WIDTH, ROUTED], 1)
    parts, gates = unit_BE.split([4, 3, 5]), gate_BR.split([4, 3, 5])
    loss_M = torch.stack([(part @ part.T).logsumexp(1).mean() for part in parts])
    return (module(gates) * loss_M).sum() + 0.1 * module.sparsity()


def gradients(*modules: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad for module in modules for name, p in module.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@pytest.mark.parametrize("size", [1, 5, 12])
def test_gradient_caching_carries_the_gates_to_the_matrix_and_the_router(size: int) -> None:
    chunks = pieces(toy_products(12, seed=2), size)

    def parts() -> tuple[EncodeStep, ModalityWeights]:
        return EncodeStep(ToyEncoder(0.2), with_gates=True), weights(ROUTED)  # type: ignore[arg-type]

    step, module = parts()
    torch.manual_seed(5)
    vectors_BE, statistics = step([batch for chunk in chunks for batch in chunk])
    assert [len(layer.gate_BR) for layer in statistics] == [12, 12]
    torch.testing.assert_close(vectors_BE[:, WIDTH:], (statistics[0].gate_BR + statistics[1].gate_BR) / 2)
    joint_loss(module, vectors_BE).backward()
    wanted = gradients(step, module)
    assert len(wanted) == len([*step.parameters(), *module.parameters()])
    assert all(wanted[name].abs().max() > 1e-6 for name in wanted if "router" in name or "matrix" in name)

    step, module = parts()
    torch.manual_seed(5)
    done = contrastive_step(step, chunks, lambda vectors_BE: joint_loss(module, vectors_BE), device=CPU)
    torch.testing.assert_close(gradients(step, module), wanted, rtol=0, atol=1e-10)
    assert not any(layer.gate_BR.requires_grad for chunk in done.statistics for layer in chunk)


def test_the_gates_alone_teach_the_router() -> None:
    step, module = EncodeStep(ToyEncoder(0.0), with_gates=True), weights(ROUTED)  # type: ignore[arg-type]
    (batch,) = pieces(toy_products(6, seed=3), 6)
    gate_BR = step(batch)[0][:, WIDTH:]
    module([gate_BR[:2], gate_BR[2:4], gate_BR[4:]])[0].backward()
    routers = [gradient for name, gradient in gradients(step).items() if "router" in name]
    assert len(routers) == 2
    assert all(gradient.abs().max() > 1e-6 for gradient in routers)


def test_without_experts_there_are_no_gates_to_ask_for() -> None:
    with pytest.raises(ValueError, match="no gates"):
        EncodeStep(DualEncoder.tiny(("red", "mug")), with_gates=True)


def test_a_tower_that_sees_no_picture_tells_nothing_of_products_without_words() -> None:
    options = DualOptions(dims=(24,), experts=5)
    encoder = DualEncoder.tiny(("red", "mug"), options=options)

    def batch(products: list[Product], view: View = EVERYTHING) -> object:
        return encoder.preparer(None, CPU).table([products]).gather(np.arange(len(products)), view)

    mixed = batch([product(1), product(2, text=False), product(3, image=False)])
    pictures = batch([product(1), product(2)], IMAGE_ONLY)
    step = EncodeStep(encoder, with_gates=True)
    vectors_BE, statistics = step([mixed, pictures])
    assert vectors_BE.shape == (5, 24 + ROUTED)
    torch.testing.assert_close(vectors_BE[:, 24:].sum(1), torch.tensor([1.0, 0, 1, 0, 0]))
    alone = step([mixed])[1]
    for one, other in zip(statistics, alone, strict=True):
        assert torch.equal(one.aspect_counts_AX, other.aspect_counts_AX)
