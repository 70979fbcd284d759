"""MOON2.0's loss: against the plain objective, its parts one by one, and where something is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from objective_helpers import WIDTH, items, pairs, random_batch, unit
from torch import Tensor
from torch.nn import functional

from encoders.objective.config import JointConfig, ObjectiveConfig
from encoders.objective.infonce import InfoNCE
from encoders.objective.intra_product import OwnSides, intra_product_loss
from encoders.objective.joint_objective import JointBatch, JointObjective, Shown
from encoders.objective.labels import ItemLabels, PairLabels
from encoders.objective.negative_queue import NegativeQueue
from encoders.objective.objective import Objective
from encoders.objective.sample_filter import (
    DECAY,
    FIRST_MARGIN,
    KAPPA,
    LAST_MARGIN,
    THRESHOLD,
    confidence,
    margin_of,
    weights_of_pairs,
)
from moonrec.errors import UserError

EXPERTS = 4
PLAIN = ObjectiveConfig("infonce", dims=(WIDTH, 4))
ONLY_INTER = JointConfig(intra_weight=0, sparsity_weight=0, filter=False)


def shown(rows: list[int], seed: int) -> Shown:
    """Random queries of these pairs, each with random gates."""
    gates = torch.rand(len(rows), EXPERTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Shown(
        unit(len(rows), seed), torch.tensor(rows, dtype=torch.int64), gates / gates.sum(1, keepdim=True)
    )


def batch_of(rows: tuple[list[int], list[int], list[int]], pair_count: int = 7, hard: int = 5) -> JointBatch:
    """A batch whose pairs have no user and no item as query."""
    found = random_batch(pair_count, hard, 0, seed=2)
    nobody = ItemLabels.nobody(pair_count)
    labels = PairLabels(found.pairs.positives, nobody, torch.full((pair_count,), -1))
    queries = [shown(modality, 50 + number) for number, modality in enumerate(rows)]
    return JointBatch(queries, found.positives_PE, found.hard_HE, labels, found.hard)


def joint(config: JointConfig = ONLY_INTER, experts: int = EXPERTS) -> JointObjective:
    return JointObjective(PLAIN, config, experts=experts).double()


ROWS = ([0, 1, 2, 3, 4, 5, 6], [1, 4, 5], [2, 6])


def test_each_modality_is_contrasted_as_the_plain_objective_does_with_the_other_pairs_as_negatives() -> None:
    batch = batch_of(ROWS)
    queue = NegativeQueue(6, WIDTH)
    queue.push(unit(6, 9), items([100, 101, 102, 103, 104, 105]))
    found = joint()(batch, queue)
    for queries, inter in zip(batch.shown, found.inter_M.tolist(), strict=True):
        own = queries.pair_A
        others = torch.tensor([row for row in range(7) if row not in own.tolist()], dtype=torch.int64)
        hard = ItemLabels.cat([batch.hard, batch.pairs.positives[others]])
        expected = Objective(PLAIN).double()(
            queries.vectors_AE,
            batch.positives_PE[own],
            torch.cat([batch.hard_HE, batch.positives_PE[others]]),
            batch.pairs[own],
            hard,
            queue=queue,
        )
        assert inter == pytest.approx(float(expected.detach()), rel=1e-9)
    weighed = (found.weight_M * found.inter_M).sum() / found.weight_M.sum()
    assert float(found.total.detach()) == pytest.approx(float(weighed))


def test_a_modality_without_queries_weighs_nothing_and_spoils_nothing() -> None:
    batch = batch_of(([0, 1, 2], [], [3, 4]))
    objective = joint()
    for one in (objective, joint(experts=0)):
        found = one(batch)
        assert found.weight_M[1] == 0
        assert torch.isnan(found.inter_M[1])
        assert torch.isfinite(found.total)
    found = objective(batch)
    found.total.backward()
    assert objective.weights is not None
    gradient_RM = objective.weights.matrix_RM.grad
    assert gradient_RM is not None
    assert torch.isfinite(gradient_RM).all()
    assert gradient_RM.abs().sum() > 0


def test_without_experts_all_modalities_that_are_there_weigh_alike() -> None:
    assert joint(experts=0)(batch_of(ROWS)).weight_M.tolist() == pytest.approx([1 / 3] * 3)
    assert joint(replace(ONLY_INTER, learned_weights=False))(batch_of(ROWS)).weight_M.tolist() == (
        pytest.approx([1 / 3] * 3)
    )


def test_gradients_reach_the_matrix_and_the_gates() -> None:
    batch = batch_of(ROWS)
    for queries in batch.shown:
        queries.gates_AR.requires_grad_()
    objective = joint()
    objective(batch).total.backward()
    assert objective.weights is not None
    assert objective.weights.matrix_RM.grad is not None
    assert objective.weights.matrix_RM.grad.abs().sum() > 0
    assert all(queries.gates_AR.grad is not None for queries in batch.shown)


def test_each_part_has_its_weight() -> None:
    batch = batch_of(ROWS)
    own = OwnSides(unit(6, 70), unit(6, 71), items([0, 1, 2, 3, 4, 5]))
    batch = replace(batch, sides=own, start_PE=unit(7, 72))
    config = replace(PLAIN, keep_weight=0.5)
    weights = JointConfig(inter_weight=0.25, intra_weight=3.0, sparsity_weight=7.0, filter=False)
    objective = JointObjective(config, weights, experts=EXPERTS).double()
    found = objective(batch)
    drift = float((1 - (batch.positives_PE * unit(7, 72)).sum(1)).mean())
    inter = float((found.weight_M * found.inter_M).sum() / found.weight_M.sum())
    expected = 0.25 * inter + 3 * float(found.intra) + 7 * float(found.sparsity) + 0.5 * drift
    assert float(found.total.detach()) == pytest.approx(expected)
    assert float(found.intra) > 0
    assert float(found.sparsity) > 0


def test_pictures_must_find_their_own_words_among_those_of_other_items() -> None:
    labels = items([0, 1, 2, 2])  # the last two are SKUs of one product
    images, texts = unit(4, 1), unit(4, 2)
    found = float(intra_product_loss(InfoNCE().double(), (WIDTH,), OwnSides(images, texts, labels)).detach())
    cosine = (images @ texts.T).numpy() / 0.07
    total = 0.0
    for table in (cosine, cosine.T):
        for row in range(4):
            allowed = [c for c in range(4) if c == row or not {row, c} <= {2, 3}]
            total += np.log(np.exp(table[row, allowed]).sum()) - table[row, row]
    assert found == pytest.approx(total / 8)


def test_the_text_of_the_other_polarity_is_pushed_away_from_a_picture() -> None:
    images = torch.eye(WIDTH, dtype=torch.float64)[:2]
    texts = unit(2, 2).requires_grad_()
    loss = intra_product_loss(InfoNCE().double(), (WIDTH,), OwnSides(images, texts, items([0, 1])))
    (gradient,) = torch.autograd.grad(loss, texts)
    assert gradient[1] @ images[0] > 0 > gradient[0] @ images[0]
    assert gradient[0] @ images[1] > 0 > gradient[1] @ images[1]


def test_a_single_item_has_no_intra_product_loss_but_still_gives_gradients() -> None:
    image = unit(1, 1).requires_grad_()
    loss = intra_product_loss(InfoNCE().double(), (WIDTH,), OwnSides(image, unit(1, 2), items([3])))
    loss.backward()
    assert float(loss.detach()) == 0
    assert image.grad is not None
    assert not image.grad.any()


def phi_by_loops(a: Tensor, p: Tensor, n: Tensor, excluded: Tensor, margin: float) -> list[float]:
    found = []
    for row in range(len(a)):
        cosines = np.array([float(a[row] @ n[c]) for c in range(len(n)) if not excluded[row, c]])
        if len(cosines) < 2:
            found.append(1.0)
            continue
        nearer = (float(a[row] @ p[row]) - cosines.mean()) / cosines.std()
        found.append(1 / (1 + np.exp(-KAPPA * (nearer - margin))))
    return found


def test_confidence_is_that_of_the_formula() -> None:
    anchors, positives, negatives = unit(5, 1), unit(5, 2), unit(9, 3)
    excluded = torch.rand(5, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    excluded[4, 1:] = True
    phi = confidence(anchors, positives, negatives, excluded, 0.7)
    assert phi.tolist() == pytest.approx(phi_by_loops(anchors, positives, negatives, excluded, 0.7))
    weights = weights_of_pairs(phi)
    assert ((weights < 1) == (phi < THRESHOLD)).all()
    assert (weights <= 1).all()


def test_the_margin_decays() -> None:
    margins = [margin_of(epoch) for epoch in range(1, 30)]
    assert margins[0] == FIRST_MARGIN
    assert margins[3] == pytest.approx(LAST_MARGIN + DECAY**3)
    assert sorted(margins, reverse=True) == margins
    assert margins[-1] > LAST_MARGIN


def test_a_wrong_positive_counts_less_than_a_right_one() -> None:
    """Anchors that point at their item, of which one is said to have found another."""
    target = unit(40, 5)
    anchors = functional.normalize(target + 0.2 * unit(40, 6), dim=1)
    batch = JointBatch(
        [Shown(anchors, torch.arange(40), torch.zeros(40, 0))],
        torch.cat([-target[:1], target[1:]]),
        unit(0, 1),
        pairs(list(range(40))),
        ItemLabels.nobody(0),
    )
    objective = JointObjective(PLAIN, ONLY_INTER, experts=0, modalities=1).double()
    weight_A = objective(batch, margin=1.0).weight_AM[0]
    assert weight_A[0] < 0.2
    assert weight_A[1:].median() == 1
    assert objective(batch, margin=1.0).total < objective(batch).total
    assert objective(batch).filtered() == 0 < objective(batch, margin=1.0).filtered()


def test_a_batch_without_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="without pairs"):
        joint()(batch_of(([], [], []), pair_count=0))


@pytest.mark.parametrize("values", [{"intra_weight": -1.0}, {"inter_weight": 0.0, "intra_weight": 0.0}])
def test_weights_that_leave_nothing_to_learn_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match="--inter-weight or --intra-weight"):
        JointConfig(**values)  # type: ignore[arg-type]
