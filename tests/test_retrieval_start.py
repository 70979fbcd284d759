"""Before the first step the towers know what training rows tell of content and popularity, and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_case import data_of, model_of, planted_log

from ctr.data.history import EventStore
from ctr.retrieval.batch import had_pairs
from ctr.retrieval.data import RetrievalData
from ctr.retrieval.softmax import LOWEST_TEMPERATURE
from ctr.retrieval.start import start_weights
from ctr.retrieval.towers import LOWEST_STRENGTH, START

ROWS, ITEMS = 4_000, 60


def choices(popularity: float, content: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """What users take whose choices follow the two weights, of what is not hidden from them."""
    random = np.random.default_rng(seed)
    cosine_QN, log_taken_N = random.uniform(-1, 1, (ROWS, ITEMS)), random.normal(2, 1, ITEMS)
    hidden_QN = random.random((ROWS, ITEMS)) < 0.3
    hidden_QN[:, 0] = False
    logit_QN = popularity * log_taken_N + content * cosine_QN + random.gumbel(size=(ROWS, ITEMS))
    return cosine_QN, log_taken_N, hidden_QN, np.where(hidden_QN, -np.inf, logit_QN).argmax(axis=1)


@pytest.mark.parametrize(("popularity", "content"), [(1.0, 3.0), (0.5, 0.5), (1.2, 12.0)])
def test_the_weights_that_users_choose_by_are_found(popularity: float, content: float) -> None:
    found = start_weights(*choices(popularity, content))
    np.testing.assert_allclose(found, (popularity, content), rtol=0.1, atol=0.1)


def test_the_weights_stay_within_what_the_towers_can_say() -> None:
    assert start_weights(*choices(1.0, -2.0))[1] == pytest.approx(LOWEST_STRENGTH / START)
    cosine_QN, log_taken_N, hidden_QN, _ = choices(1.0, 0.0)
    nearest_Q = np.where(hidden_QN, -np.inf, cosine_QN).argmax(axis=1)
    assert start_weights(100 * cosine_QN, log_taken_N, hidden_QN, nearest_Q)[1] <= 1 / LOWEST_TEMPERATURE
    assert start_weights(np.zeros_like(cosine_QN), -log_taken_N, hidden_QN, nearest_Q)[0] >= 0


def started(data: RetrievalData) -> tuple[float, float]:
    """The weights of the cosine, and of the log of how often an item was taken, in a fresh model's logits."""
    model = model_of(data)
    temperature = model.softmax.temperature.item()
    return (
        model.towers.log_strength.exp().item() / temperature,
        model.towers.taken_weight.item() / temperature,
    )


def test_vectors_that_tell_nothing_start_faint(tmp_path: Path) -> None:
    telling = data_of(planted_log(users=120).save(tmp_path))
    assert telling.frozen is not None
    other = np.random.default_rng(0).permutation(len(telling.items.frozen_C))
    shuffled = replace(telling.items, frozen_C=telling.items.frozen_C[other])
    content, popularity = started(telling)
    assert content > 3
    assert 0.5 < popularity < 1.5
    faint, popularity = started(replace(telling, items=shuffled))
    assert faint < 0.2 * content
    assert 0.5 < popularity < 1.5


EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 6)), max_size=30)
ASKED = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=10)


@settings(max_examples=100, deadline=None)
@given(EVENTS, ASKED, st.integers(1, 3), st.sets(st.integers(0, 5)))
def test_what_a_user_had_is_all_that_was_earlier_however_short_the_history(
    events: list[tuple[int, int, int]], asked: list[tuple[int, int]], limit: int, offered: set[int]
) -> None:
    user_E, item_E, time_E = np.array(events, np.int64).reshape(-1, 3).T
    store = EventStore.build(user_E, item_E, time_E, 4)
    user_R, time_R = np.array(asked, np.int64).reshape(-1, 2).T
    place_I = np.where(np.isin(np.arange(6), list(offered)), np.arange(6) + 10, -1)
    row_K, place_K = had_pairs(store, *store.lookup(user_R, time_R, limit), place_I)
    expected = [
        (row, item) for row, (user, time) in enumerate(asked)
        for one, item, when in events if one == user and when < time and item in offered
    ]  # fmt: skip
    assert sorted(zip(row_K.tolist(), (place_K - 10).tolist(), strict=True)) == sorted(expected)
