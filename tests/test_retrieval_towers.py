"""What the towers start from, what they depend on, and that all vectors have length 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from retrieval_case import DIMENSION, data_of, model_of, planted_log

from ctr.data.ragged import Ragged
from ctr.retrieval.batch import item_batch, user_batch
from ctr.retrieval.catalogue import ItemInputs
from ctr.retrieval.content_mean import history_means
from ctr.retrieval.data import RetrievalData
from ctr.retrieval.model import TwoTowers
from ctr.retrieval.towers import POPULARITY
from ctr.retrieval.vectors import item_vectors, user_vectors

CONTEXT = {"categorical": ("device",), "numeric": ("spent",)}
DIM = DIMENSION + POPULARITY + 2


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return planted_log(users=120).save(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def data(inputs: dict[str, Any]) -> RetrievalData:
    return data_of(inputs, **CONTEXT)


@pytest.fixture(scope="module")
def ids_only(inputs: dict[str, Any]) -> RetrievalData:
    return data_of({"events": inputs["events"]})


@pytest.fixture(scope="module")
def trained(data: RetrievalData) -> TwoTowers:
    return restless(data)


def restless(data: RetrievalData) -> TwoTowers:
    """A model with weights that make every input count."""
    model = model_of(data)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith(("ids.", "context.")):
                value.mul_(100)
            elif "residual" not in name:
                value.add_(0.3 * torch.randn(value.shape, generator=random))
    return model


def catalogue_vectors(model: TwoTowers, data: RetrievalData) -> np.ndarray:
    return np.concatenate(list(item_vectors(model, data.items, data.catalogue.code_M)))


def centred_cosines(data: RetrievalData) -> np.ndarray:
    """Of the mean of each test history and every candidate, (Q, M)."""
    assert data.frozen is not None
    frozen = data.frozen.vectors.numpy()
    centre = frozen[np.unique(data.items.frozen_C[data.train.item_R])].mean(axis=0)
    items_MD = frozen[data.items.frozen_C[data.catalogue.code_M]]
    length_Q1 = np.diff(data.test.history.offsets_R1)[:, None]
    sums_QD = np.stack([items_MD[data.test.history.take(np.array([q])).values].sum(axis=0)
                        for q in range(len(data.test))])  # fmt: skip
    users_QD = sums_QD / length_Q1 - centre
    items_MD = items_MD - centre
    items_MD /= np.linalg.norm(items_MD, axis=1, keepdims=True)
    return users_QD / np.linalg.norm(users_QD, axis=1, keepdims=True) @ items_MD.T


def popularity(data: RetrievalData) -> np.ndarray:
    """Of every candidate (M,): the log of how often it was taken, against that of the items in training.

    What nothing is known of counts as the average item.
    """
    taken_M, known = data.taken_C[data.catalogue.code_M], data.taken_C[data.taken_C > 0]
    return np.log(np.where(taken_M > 0, taken_M, known.mean())) - np.log(known).mean()


def test_before_training_a_score_is_the_history_s_mean_and_popularity(data: RetrievalData) -> None:
    model = model_of(data, dim=DIM)
    strength, taken = model.towers.log_strength.exp().item(), model.towers.taken_weight.item()
    expected = (strength * centred_cosines(data) + np.tanh(taken * popularity(data))) / 2
    scores = user_vectors(model, data.test.rows, data.items) @ catalogue_vectors(model, data).T
    alike = [np.corrcoef(one, other)[0, 1] for one, other in zip(scores, expected, strict=True)]
    assert np.mean(alike) > 0.98
    # What is left are the small perceptrons.
    with torch.no_grad():
        for perceptron in (model.towers.user_output, model.towers.item_output):
            perceptron.output.weight.zero_()
    scores = user_vectors(model, data.test.rows, data.items) @ catalogue_vectors(model, data).T
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_narrower_towers_keep_the_main_directions(data: RetrievalData) -> None:
    model = model_of(data, dim=6 + POPULARITY)
    users, items = user_vectors(model, data.test.rows, data.items), catalogue_vectors(model, data)
    scores = users[:, :-POPULARITY] @ items[:, :-POPULARITY].T
    alike = [np.corrcoef(row, other)[0, 1] for row, other in zip(scores, centred_cosines(data), strict=True)]
    assert np.mean(alike) > 0.85


def chunks(count: int, sizes: tuple[int, ...]) -> Iterator[np.ndarray]:
    first = 0
    while first < count:
        for size in sizes:
            yield np.arange(first, min(first + size, count))
            first += size


@pytest.mark.parametrize("sizes", [(1,), (2, 3, 33), (7, 64)])
def test_vectors_do_not_depend_on_what_else_is_computed(
    trained: TwoTowers, data: RetrievalData, sizes: tuple[int, ...]
) -> None:
    rows, codes = data.test.rows, data.catalogue.code_M
    users, items = user_vectors(trained, rows, data.items), catalogue_vectors(trained, data)
    with torch.no_grad():
        for part in chunks(len(rows), sizes):
            one = trained.users(user_batch(rows, part, data.items)).numpy()
            assert one.tobytes() == users[part].tobytes()
        for part in chunks(len(codes), sizes):
            one = trained.candidates(item_batch(data.items, codes[part])).numpy()
            assert one.tobytes() == items[part].tobytes()


def test_the_order_of_rows_changes_no_bit(trained: TwoTowers, data: RetrievalData) -> None:
    order = np.random.default_rng(0).permutation(len(data.test))
    users = user_vectors(trained, data.test.rows, data.items)
    shuffled = user_vectors(trained, data.test.rows.at(order), data.items)
    assert shuffled.tobytes() == users[order].tobytes()


def with_item(data: RetrievalData, **changed: Any) -> ItemInputs:
    """The inputs with one more item: an unknown id, the vector and category of item 0."""
    items = data.items
    paths = changed.get("paths", items.categories.take(np.array([0])).values)
    lengths = np.append(np.diff(items.categories.offsets_R1), len(paths))
    return ItemInputs(
        np.append(items.trained_C, changed.get("trained", 0)),
        np.append(items.frozen_C, changed.get("frozen", items.frozen_C[0])),
        Ragged.of_lengths(np.append(items.categories.values, paths), lengths),
    )


def last_item(model: TwoTowers, items: ItemInputs) -> np.ndarray:
    return next(item_vectors(model, items, np.array([len(items.trained_C) - 1])))


def test_an_unknown_item_is_its_vector_and_its_category(trained: TwoTowers, data: RetrievalData) -> None:
    twin = last_item(trained, with_item(data))
    unknown = replace(data.items, trained_C=np.where(np.arange(len(data.items.trained_C)) == 0, 0, 1))
    assert np.array_equal(next(item_vectors(trained, unknown, np.array([0]))), twin)
    others: list[dict[str, Any]] = [
        {"trained": 3}, {"frozen": int(data.items.frozen_C[1])}, {"frozen": 0}, {"paths": []}
    ]  # fmt: skip
    for other in others:
        assert not np.allclose(last_item(trained, with_item(data, **other)), twin, atol=1e-3), other


def lengths_of(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors.astype(np.float64), axis=1)


@pytest.mark.parametrize("kind", ["data", "ids_only"])
def test_all_vectors_have_length_one(kind: str, request: pytest.FixtureRequest) -> None:
    """Users without a history (each one's first row) and items of which nothing is known, too."""
    found: RetrievalData = request.getfixturevalue(kind)
    for model in (model_of(found), restless(found)):
        assert (found.train.start_R == found.train.end_R).any()
        users = user_vectors(model, found.train, found.items)
        nothing = with_item(found, frozen=0, paths=[])
        items = np.concatenate(list(item_vectors(model, nothing, np.arange(len(nothing.trained_C)))))
        np.testing.assert_allclose(lengths_of(users), 1, atol=1e-5)
        np.testing.assert_allclose(lengths_of(items), 1, atol=1e-5)
        assert np.isfinite(users).all()
        assert np.isfinite(items).all()


def test_a_score_is_taste_plus_popularity(trained: TwoTowers, data: RetrievalData) -> None:
    """Half of each; popularity is the same for all users."""
    user_QD, item_MD = user_vectors(trained, data.test.rows, data.items), catalogue_vectors(trained, data)
    taste_QM = user_QD[:, :-POPULARITY] @ item_MD[:, :-POPULARITY].T
    rest_QM = user_QD @ item_MD.T - taste_QM
    np.testing.assert_allclose(rest_QM, np.broadcast_to(rest_QM[:1], rest_QM.shape), atol=1e-6)
    assert np.ptp(rest_QM[0]) > 0.01


def test_a_history_without_vectors_gives_what_ids_give(data: RetrievalData) -> None:
    """Not the centre of the vectors with a minus sign."""
    model = restless(data)
    uncovered = replace(data.items, frozen_C=np.zeros_like(data.items.frozen_C))
    before = user_vectors(model, data.test.rows, uncovered)
    with torch.no_grad():
        model.towers.user_residual.centre.add_(5.0)
        model.towers.behaviour_content.centre.add_(5.0)
    assert np.array_equal(user_vectors(model, data.test.rows, uncovered), before)
    assert not np.array_equal(user_vectors(model, data.test.rows, data.items), before)
    assert not history_means(np.zeros((len(data.catalogue), 2), np.float32), data.test.history).any()
