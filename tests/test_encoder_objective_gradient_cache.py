"""Gradient caching: the gradients of a batch, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from objective_helpers import Batch, random_batch
from objective_toy import ToyEncoder, pieces, toy_products
from torch import Tensor, nn

from encoders.guided_moe import balance_loss
from encoders.objective.config import ObjectiveConfig
from encoders.objective.encode_step import EncodeStep
from encoders.objective.gradient_cache import contrastive_step
from encoders.objective.negative_queue import NegativeQueue
from encoders.objective.objective import Objective

PAIRS, HARD = 7, 4
PRODUCTS = toy_products(2 * PAIRS + HARD, seed=1)
CPU = torch.device("cpu")
BALANCE = 0.3


def parts(
    dropout: float = 0.2, loss: str = "infonce"
) -> tuple[EncodeStep, Objective, Callable[[Tensor], Tensor]]:
    """An encoder, a loss, and that loss of all vectors of a step."""
    batch: Batch = random_batch(PAIRS, HARD, queue=9, seed=1)
    queue = NegativeQueue(9, 8)
    queue.push(batch.queue_QE, batch.queue)
    objective = Objective(ObjectiveConfig(loss, dims=(8, 4), circle_scale=16)).double()

    def loss_of(vectors_BE: Tensor) -> Tensor:
        anchors_PE, positives_PE, hard_HE = vectors_BE.split([PAIRS, PAIRS, HARD])
        return objective(anchors_PE, positives_PE, hard_HE, batch.pairs, batch.hard, queue=queue)

    return EncodeStep(ToyEncoder(dropout)), objective, loss_of  # type: ignore[arg-type]


def gradients(*modules: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad for module in modules for name, p in module.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@pytest.mark.parametrize("loss", ["infonce", "circle"])
@pytest.mark.parametrize("size", [1, 3, PAIRS, 2 * PAIRS + HARD])
def test_gradients_are_those_of_all_chunks_kept_at_once(size: int, loss: str) -> None:
    step, objective, loss_of = parts(loss=loss)
    chunks = pieces(PRODUCTS, size)
    torch.manual_seed(5)
    # One call with all batches; each passes the encoder (and its dropout) alone, as the chunks do.
    vectors_BE, statistics = step([batch for chunk in chunks for batch in chunk])
    balance = balance_loss(statistics)
    value = loss_of(vectors_BE)
    (value + BALANCE * balance).backward()
    wanted, after = gradients(step, objective), torch.get_rng_state()

    step, objective, loss_of = parts(loss=loss)
    torch.manual_seed(5)
    done = contrastive_step(step, chunks, loss_of, device=CPU, balance_weight=BALANCE)
    torch.testing.assert_close(gradients(step, objective), wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(done.vectors_BE, vectors_BE.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(done.loss, value.detach())
    torch.testing.assert_close(done.balance, balance.detach())
    assert torch.equal(torch.get_rng_state(), after)
    tokens = sum(int(chunk[0].aspect_counts_AX.sum()) for chunk in done.statistics)
    assert tokens == int(statistics[0].aspect_counts_AX.sum())


def test_without_dropout_chunks_do_not_show_in_the_gradients() -> None:
    found = []
    for size in (1, 4, 2 * PAIRS + HARD):
        step, objective, loss_of = parts(dropout=0.0)
        contrastive_step(step, pieces(PRODUCTS, size), loss_of, device=CPU, balance_weight=BALANCE)
        found.append(gradients(step, objective))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-10)


def test_nothing_of_a_chunk_is_kept_in_the_first_pass() -> None:
    """At most one chunk's graph is alive: that is what the second pass is paid for."""
    step, _, loss_of = parts()
    with_graph = []
    step.register_forward_hook(lambda module, args, out: with_graph.append(out[0].requires_grad))
    contrastive_step(step, pieces(PRODUCTS, 9), loss_of, device=CPU)
    assert with_graph == [False, False, True, True]


def test_only_the_last_chunk_synchronises() -> None:
    step, _, loss_of = parts()
    silent, heard = [0], []

    class Silence:
        def __enter__(self) -> None:
            silent[0] += 1

        def __exit__(self, *error: object) -> None:
            silent[0] -= 1

    def backward(loss: Tensor) -> None:
        heard.append(silent[0] == 0)
        loss.backward()

    contrastive_step(step, pieces(PRODUCTS, 6), loss_of, device=CPU, backward=backward, no_sync=Silence)
    assert heard == [False, False, True]


def test_a_callers_autocast_does_not_cut_the_second_pass_off_from_the_weights() -> None:
    found = []
    for size in (3, 2 * PAIRS + HARD):
        step, objective, loss_of = parts(dropout=0.0)
        step.float()
        chunks = [[type(batch)(batch.x_BTD.float()) for batch in chunk] for chunk in pieces(PRODUCTS, size)]
        with torch.autocast("cpu", torch.bfloat16):
            contrastive_step(step, chunks, loss_of, device=CPU, balance_weight=BALANCE)
        found.append(gradients(step, objective))
    torch.testing.assert_close(found[0], found[1], rtol=0.1, atol=0.02)
