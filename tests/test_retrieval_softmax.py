"""The sampled softmax stands for the one over all items, and what is no candidate has no say in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ctr.data.ragged import Ragged
from ctr.retrieval.batch import RetrievalBatch, item_batch
from ctr.retrieval.catalogue import ItemInputs
from ctr.retrieval.negatives import Negatives
from ctr.retrieval.softmax import SampledSoftmax, TargetAndOthers

ITEMS, WIDTH = 40, 6
ROWS = 32


def batch_of(
    code_C: np.ndarray,
    rows: int,
    histories: list[list[int]] | None = None,
    log_count_C: np.ndarray | None = None,
) -> RetrievalBatch:
    """Rows whose targets are the first candidates; `histories` are what may not be a negative."""
    histories = histories or []
    had_row_K = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    had_code_U, had_place_K = np.unique(
        np.array([code for history in histories for code in history], np.int64), return_inverse=True
    )
    nothing_C = np.zeros(int(code_C.max()) + 1, np.int64)
    items = ItemInputs(
        nothing_C, nothing_C, Ragged(np.zeros(0, np.int64), np.zeros(len(nothing_C) + 1, np.int64))
    )
    log_count_C = np.zeros(len(code_C)) if log_count_C is None else log_count_C
    return replace(
        item_batch(items, code_C.astype(np.int64)),
        had_row_K=torch.from_numpy(had_row_K),
        had_place_K=torch.from_numpy(had_place_K),
        had_code_U=torch.from_numpy(had_code_U),
        log_count_C=torch.from_numpy(log_count_C).float(),
        target_B=torch.arange(rows),
        loss_scale=1 / rows,
    )


def vectors(rows: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, WIDTH, generator=random), dim=1)


def drawn_batch(negatives: Negatives, step: int, histories: list[list[int]] | None = None) -> RetrievalBatch:
    """Targets by how often they are taken, and the uniform draws of a step."""
    share_C = negatives.taken_C / negatives.taken_C.sum()
    target_B = np.random.default_rng([9, step]).choice(ITEMS, ROWS, p=share_C)
    uniform_M, number_B = negatives.draw(step, ROWS)
    assert number_B.sum() == len(uniform_M)
    code_C = np.concatenate([target_B, uniform_M])
    return batch_of(code_C, ROWS, histories, negatives.log_expected(code_C, ROWS))


def popular(uniform_share: float, seed: int = 0) -> Negatives:
    """Item i is taken about 1 / (i + 1) as often as item 0; the last two never are."""
    taken_C = np.append(np.round(2_000 / np.arange(1, ITEMS - 1)), [0, 0]).astype(np.int64)
    return Negatives.of(np.repeat(np.arange(ITEMS), taken_C), taken_C, uniform_share, seed)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_the_loss_is_that_of_its_formula_row_by_row(data: st.DataObject) -> None:
    code = st.integers(0, 9)
    rows = data.draw(st.integers(1, 6))
    code_C = np.array(data.draw(st.lists(code, min_size=rows, max_size=rows + 8)))
    histories = data.draw(st.lists(st.lists(code, max_size=4), min_size=rows, max_size=rows))
    log_count_C = np.random.default_rng(0).normal(size=len(code_C))
    softmax = SampledSoftmax()
    user_BD, item_CD = vectors(rows), vectors(len(code_C), 1)
    loss, first_B = softmax(user_BD, item_CD, batch_of(code_C, rows, histories, log_count_C))
    logit_BC = (2 * user_BD @ item_CD.t() / softmax.temperature).detach().double().numpy()
    expected, first = [], []
    for row in range(rows):
        hidden = {int(code_C[row]), *histories[row]}
        others = [
            logit_BC[row, at] - log_count_C[at] for at in range(len(code_C)) if code_C[at] not in hidden
        ]
        expected.append(np.log1p(np.sum(np.exp(np.array(others) - logit_BC[row, row]))))
        first.append(float(not others or max(others) < logit_BC[row, row]))
    assert loss.item() == pytest.approx(np.mean(expected), abs=1e-4)
    assert first_B.tolist() == first


def full_softmax(
    user_BD: torch.Tensor,
    table_ID: torch.Tensor,
    target_B: torch.Tensor,
    histories: list[list[int]],
    softmax: SampledSoftmax,
) -> torch.Tensor:
    """Over all items that training knows, without the row's own history."""
    logit_BI = 2 / softmax.temperature.item() * user_BD @ table_ID[:-2].t()
    for row, history in enumerate(histories):
        logit_BI[row, [code for code in history if code != target_B[row] and code < ITEMS - 2]] = -torch.inf
    return F.cross_entropy(logit_BI, target_B)


def test_with_many_draws_loss_and_gradients_are_those_of_the_full_softmax() -> None:
    histories = [[row % 7, (3 * row) % 38] for row in range(ROWS)]
    batch = drawn_batch(popular(0.9995), 0, histories)
    softmax = SampledSoftmax()
    user_BD, table_ID = vectors(ROWS).requires_grad_(), vectors(ITEMS, 1).requires_grad_()
    sampled, _ = softmax(user_BD, table_ID[batch.code_C], batch)
    full = full_softmax(user_BD, table_ID, batch.code_C[:ROWS], histories, softmax)
    assert sampled.item() == pytest.approx(full.item(), rel=0.01)
    for leaf in (user_BD, table_ID):
        (actual,) = torch.autograd.grad(sampled, [leaf], retain_graph=True)
        (expected,) = torch.autograd.grad(full, [leaf], retain_graph=True)
        assert (actual - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("uniform_share", [0.0, 0.5])
def test_the_draws_estimate_the_sum_over_all_items_without_bias(uniform_share: float) -> None:
    """Of row 0, over many steps; popular items are in most steps, rare ones in few."""
    negatives, softmax = popular(uniform_share), SampledSoftmax()
    user_1D, table_ID = vectors(1), vectors(ITEMS, 1)
    target, history = 5, [3, 8]
    sums = []
    for step in range(1_000):
        batch = drawn_batch(negatives, step)
        code_C = torch.cat([torch.tensor([target]), batch.code_C[1:]])
        one_row = batch_of(code_C.numpy(), 1, [history], negatives.log_expected(code_C.numpy(), ROWS))
        loss, _ = softmax(user_1D, table_ID[code_C], one_row)
        sums.append(loss.exp().item() - 1)
    exact = full_softmax(user_1D, table_ID, torch.tensor([target]), [history], softmax)
    error = np.std(sums) / np.sqrt(len(sums))
    assert np.mean(sums) == pytest.approx(exact.exp().item() - 1, abs=4 * error)
    assert error < 0.1 * np.mean(sums)


@pytest.mark.parametrize(("corrected", "slope"), [(True, 1.0), (False, 0.0)])
def test_popular_items_are_pushed_down_without_the_correction(corrected: bool, slope: float) -> None:
    """Nothing but popularity is to be learnt: the best logits are log p; uncorrected ones are flat."""
    negatives, softmax = popular(0.0), SampledSoftmax()
    user_BD = torch.ones(ROWS, 1) * softmax.temperature.item() / 2
    logit_ID = torch.zeros(ITEMS, 1, requires_grad=True)
    optimizer = torch.optim.Adam([logit_ID], lr=0.05)
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 600)
        batch = drawn_batch(negatives, step)
        if not corrected:
            batch = replace(batch, log_count_C=torch.zeros_like(batch.log_count_C))
        loss, _ = softmax(user_BD, logit_ID[batch.code_C], batch)
        (logit_ID.grad,) = torch.autograd.grad(loss, [logit_ID])
        optimizer.step()
    known = slice(0, 20)
    fitted, _ = np.polyfit(np.log(negatives.taken_C[known]), logit_ID.detach().numpy()[known, 0], 1)
    assert fitted == pytest.approx(slope, abs=0.25)


def test_hidden_candidates_have_no_influence() -> None:
    """The target's item once more at 2, an item of the history at 3; 1 and 4 are others."""
    batch = batch_of(np.array([6, 1, 6, 2, 3]), 1, [[2, 2, 9]])
    user_BD, item_CD = vectors(1).requires_grad_(), vectors(5, 1).requires_grad_()
    loss, _ = SampledSoftmax()(user_BD, item_CD, batch)
    (gradient_CD,) = torch.autograd.grad(loss, [item_CD])
    assert gradient_CD.abs().sum(dim=1).gt(0).tolist() == [True, True, False, False, True]
    changed_CD = item_CD.detach().clone()
    changed_CD[[2, 3]] = vectors(2, 7)
    assert torch.equal(SampledSoftmax()(user_BD, changed_CD, batch)[0], loss)


def test_the_gradients_of_a_step_are_those_of_its_numbers() -> None:
    logit_BC = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul_(4)
    target_B, hidden = torch.tensor([4, 0, 2]), torch.tensor([0, 5, 6, 7, 12])

    def told(logit_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own_B, others_B, _ = TargetAndOthers.apply(logit_BC, target_B, hidden)
        return own_B, others_B

    assert torch.autograd.gradcheck(told, logit_BC.requires_grad_())


def test_a_batch_without_a_single_negative_has_finite_gradients() -> None:
    softmax = SampledSoftmax()
    user_BD, item_CD = vectors(4).requires_grad_(), vectors(4, 1).requires_grad_()
    loss, first_B = softmax(user_BD, item_CD, batch_of(np.full(4, 3), 4, [[1], [], [2], []]))
    gradients = torch.autograd.grad(loss, [user_BD, item_CD, softmax.log_temperature])
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert first_B.tolist() == [1, 1, 1, 1]


def test_the_temperature_stays_within_its_bounds() -> None:
    softmax = SampledSoftmax()
    for given_log, bound in ((-50.0, 0.02), (50.0, 1.0)):
        with torch.no_grad():
            softmax.log_temperature.fill_(given_log)
        assert softmax.temperature.item() == pytest.approx(bound)


def test_expected_counts_are_the_mean_counts_of_the_draws() -> None:
    """Over the other rows' targets and the uniform draws; what training does not know is never drawn."""
    negatives = popular(0.4)
    counts = np.zeros(ITEMS)
    for step in range(2_000):
        counts += np.bincount(drawn_batch(negatives, step).code_C[1:], minlength=ITEMS)
    expected_C = np.exp(negatives.log_expected(np.arange(ITEMS), ROWS))
    np.testing.assert_allclose(counts[:-2] / 2_000, expected_C[:-2], rtol=0.15)
    assert counts[-2:].tolist() == [0, 0]
