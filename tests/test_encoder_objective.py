"""The contrastive objective against loops, and what it leaves out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from objective_helpers import WIDTH, items, loss_by_loops, pairs, random_batch, unit
from torch.nn import functional

from encoders.objective import contrast
from encoders.objective.config import ObjectiveConfig
from encoders.objective.false_negatives import false_among_items, false_among_pairs
from encoders.objective.labels import ItemLabels
from encoders.objective.negative_queue import NegativeQueue
from encoders.objective.objective import Objective
from moonrec.errors import UserError

LOSSES = pytest.mark.parametrize("loss", ["infonce", "circle"])
PLAIN = ObjectiveConfig("infonce", dims=(WIDTH,))


@LOSSES
@pytest.mark.parametrize(
    ("dims", "hard", "queue"), [((8,), 0, 0), ((8,), 5, 0), ((8,), 0, 9), ((8, 4, 2), 6, 9)]
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_loss_is_that_of_loops(
    loss: str, dims: tuple[int, ...], hard: int, queue: int, seed: int
) -> None:
    batch = random_batch(7, hard, queue, seed)
    config = ObjectiveConfig(loss, dims=dims, circle_scale=16)
    past = NegativeQueue(queue, WIDTH)
    past.push(batch.queue_QE, batch.queue)
    value = Objective(config).double()(
        batch.anchors_PE, batch.positives_PE, batch.hard_HE, batch.pairs, batch.hard, queue=past
    )
    assert len(past) == queue
    assert float(value.detach()) == pytest.approx(loss_by_loops(batch, config), abs=1e-6)


@LOSSES
def test_blocks_of_anchors_change_neither_loss_nor_gradients(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, objective = random_batch(20, 6, 0, seed=1), Objective(ObjectiveConfig(loss, dims=(8, 4))).double()

    def gradients() -> list[torch.Tensor]:
        sides = [x.clone().requires_grad_() for x in (batch.anchors_PE, batch.positives_PE, batch.hard_HE)]
        value = objective(*sides, batch.pairs, batch.hard)
        return [value.detach(), *torch.autograd.grad(value, [*sides, *objective.parameters()])]

    whole = gradients()
    monkeypatch.setattr(contrast, "_BLOCK_CELLS", 3 * 26)
    torch.testing.assert_close(gradients(), whole, rtol=1e-10, atol=1e-12)


def test_circle_loss_pulls_the_positive_pushes_the_negatives_and_leaves_alone_what_is_well() -> None:
    anchor_1E = torch.tensor([[1.0, 0, 0, 0]])
    # Cosines with the anchor: a hard negative, a middling one, and one beyond the margin (below -m).
    cosines = torch.tensor([0.8, 0.4, -0.5])
    hard_HE = torch.stack(
        [cosines, (1 - cosines**2).sqrt(), torch.zeros(3), torch.zeros(3)], 1
    ).requires_grad_()
    positive_1E = torch.tensor([[0.6, 0.0, 0.8, 0.0]], requires_grad=True)
    objective = Objective(ObjectiveConfig("circle", dims=(4,)))
    objective(anchor_1E, positive_1E, hard_HE, pairs([0]), items([1, 2, 3])).backward()
    assert positive_1E.grad is not None
    assert hard_HE.grad is not None
    assert positive_1E.grad[0, 0] < 0
    assert hard_HE.grad[0, 0] > hard_HE.grad[1, 0] > 0
    assert hard_HE.grad[2, 0] == 0


def test_circle_weights_are_constants_to_the_gradient() -> None:
    """The paper's equation 9: dL/ds_n is its share of the loss times gamma (s_n + m), not 2 gamma s_n."""
    cosines, gamma, m = torch.tensor([0.5, 0.1, 0.3], dtype=torch.float64), 8.0, 0.25  # positive first
    anchor_1E = torch.ones(1, 1, dtype=torch.float64)
    hard = cosines[1:, None].clone().requires_grad_()
    config = ObjectiveConfig("circle", dims=(1,), circle_scale=gamma, circle_margin=m)
    Objective(config)(anchor_1E, cosines[:1, None], hard, pairs([0])).backward()
    exponents = torch.cat(
        [gamma * (1 + m - cosines[:1]) * (cosines[:1] - 1 + m), gamma * (cosines[1:] ** 2 - m**2)]
    )
    shares = exponents.softmax(0)[1:]
    assert hard.grad is not None
    torch.testing.assert_close(
        hard.grad[:, 0], shares * gamma * (cosines[1:] + m) / 2
    )  # one of two directions


@LOSSES
@pytest.mark.parametrize("cosine", [-1.0, 0.0, 1.0])
def test_extreme_similarities_and_missing_negatives_give_finite_gradients(loss: str, cosine: float) -> None:
    one = torch.zeros(3, 4)
    one[:, 0] = 1
    other = one * cosine + (torch.tensor([0.0, 1, 0, 0]) if cosine == 0 else 0)
    objective = Objective(ObjectiveConfig(loss, dims=(4, 2), circle_scale=256))
    for labels in (pairs([0, 1, 2]), pairs([5, 5, 5])):
        sides = [one.clone().requires_grad_(), other.clone().requires_grad_()]
        value = objective(*sides, None, labels)
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(x.grad).all() for x in sides if x.grad is not None)
        assert all(torch.isfinite(x.grad) for x in objective.parameters() if x.grad is not None)
    assert float(value.detach()) == 0.0
    assert not any(x.grad.any() for x in sides if x.grad is not None)


def test_the_found_item_its_twins_and_the_anchors_own_item_are_no_negatives() -> None:
    # Pairs a->b, c->a, a->d and a query without a catalogue item ->b.
    labels = pairs([1, 0, 3, 1], own=[0, 2, 0, -1])
    false_PP = false_among_pairs(labels, labels).fill_diagonal_(False)
    assert false_PP.nonzero().tolist() == [[0, 1], [0, 2], [0, 3], [2, 0], [2, 1], [3, 0]]


def test_a_hard_negative_of_one_anchor_serves_all_but_those_whose_user_took_it() -> None:
    # Users 4, 4, 5 and nobody; the second pair of user 4 went from item 7 to item 1.
    labels = pairs([0, 1, 2, 3], own=[-1, 7, -1, -1], users=[4, 4, 5, -1])
    hard = items([1, 7, 2, 9, -1, 8], [-1, -1, -1, -1, -1, 6])
    assert false_among_items(labels, labels, hard).int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_queued_item_that_stands_in_the_batch_does_not_count_a_second_time() -> None:
    anchors_PE, positives_PE, labels = unit(4, 1), unit(4, 2), pairs([0, 1, 2, 3])
    queue, objective = NegativeQueue(8, WIDTH), Objective(PLAIN)
    alone = objective(anchors_PE, positives_PE, None, labels)
    queue.push(unit(4, 3), items([0, 1, 2, 3]))
    assert objective(anchors_PE, positives_PE, None, labels, queue=queue) == alone
    queue.push(unit(1, 4), items([4]))
    assert objective(anchors_PE, positives_PE, None, labels, queue=queue) > alone


@LOSSES
def test_each_prefix_is_trained_to_stand_alone(loss: str) -> None:
    anchors_PE, positives_PE, labels = unit(6, 1), unit(6, 2), pairs(list(range(6)))
    whole = Objective(ObjectiveConfig(loss, dims=(8, 3)))(anchors_PE, positives_PE, None, labels)
    short = [functional.normalize(x[:, :3], dim=1) for x in (anchors_PE, positives_PE)]
    one = Objective(ObjectiveConfig(loss, dims=(8,)))(anchors_PE, positives_PE, None, labels)
    other = Objective(ObjectiveConfig(loss, dims=(3,)))(*short, None, labels)
    torch.testing.assert_close(whole, (one + other) / 2)


def test_positives_are_held_to_where_they_started_as_strongly_as_wanted() -> None:
    anchors_PE, positives_PE, labels = unit(6, 1), unit(6, 2), pairs(list(range(6)))
    free = Objective(PLAIN)(anchors_PE, positives_PE, None, labels)
    held = Objective(ObjectiveConfig("infonce", dims=(8,), keep_weight=2.0))
    torch.testing.assert_close(held(anchors_PE, positives_PE, None, labels, start_PE=positives_PE), free)
    moved = (held(anchors_PE, positives_PE, None, labels, start_PE=unit(6, 3)) - free).detach()
    assert float(moved) == pytest.approx(2 * float((1 - (positives_PE * unit(6, 3)).sum(1)).mean()))


def test_the_temperature_learns_and_stays_within_bounds() -> None:
    objective, anchors_PE = Objective(PLAIN), unit(8, 1)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    assert objective.temperature() == pytest.approx(0.07)
    for _ in range(5):
        optimizer.zero_grad()
        objective(anchors_PE, anchors_PE, None, pairs(list(range(8)))).backward()
        optimizer.step()
    assert float(objective.temperature() or 0) < 0.07  # every anchor finds its own: sharper is better
    with torch.no_grad():
        next(objective.parameters()).fill_(50.0)
    assert objective.temperature() == pytest.approx(0.01)
    assert Objective(ObjectiveConfig("circle", dims=(8,))).temperature() is None


def test_logits_are_in_full_precision_whatever_autocast_says() -> None:
    sides = [unit(32, seed, torch.float32) for seed in (1, 2)]
    labels, objective = pairs(list(range(32))), Objective(PLAIN)
    wanted = objective(*sides, None, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert objective(*sides, None, labels) == wanted


def test_labels_of_catalogue_rows_leave_missing_rows_nobody() -> None:
    labels = ItemLabels.of_rows(np.array([2, -1, 0]), np.array([5, 6, 5]), np.array([0, 1, 2]))
    assert labels.product_N.tolist() == [5, -1, 5]
    assert labels.text_N.tolist() == [2, -1, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "triplet"},
        {"dims": ()},
        {"dims": (64, 128)},
        {"dims": (64, 64)},
        {"dims": (64, 0)},
        {"queue": -1},
        {"circle_margin": 1.5},
        {"circle_scale": 0},
        {"balance_weight": -1},
        {"keep_weight": -0.1},
    ],
)
def test_senseless_choices_are_refused(wrong: dict[str, object]) -> None:
    values: dict[str, object] = {"loss": "infonce", "dims": (64,)} | wrong
    with pytest.raises(UserError):
        ObjectiveConfig(**values)  # type: ignore[arg-type]


def test_a_prefix_longer_than_the_vectors_is_a_bug() -> None:
    with pytest.raises(ValueError, match="prefix of 16"):
        Objective(ObjectiveConfig("circle", dims=(16, 8)))(unit(2, 1), unit(2, 2), None, pairs([0, 1]))


def test_a_batch_without_pairs_is_a_bug() -> None:
    with pytest.raises(ValueError, match="without pairs"):
        Objective(PLAIN)(unit(0, 1), unit(0, 2), None, pairs([]))
