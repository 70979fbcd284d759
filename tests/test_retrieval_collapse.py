from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from ctr.retrieval.collapse import collapse_warning, spread


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 3), st.integers(0, 999))
def test_spread_equals_all_pairs_and_a_singular_value_decomposition(
    rows: int, width: int, empty: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Any rank up to the full one, any scale, and rows without a vector between.
    rank = int(rng.integers(1, width + 1))
    vectors = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, width)) + 0.5
    vectors *= 10.0 ** rng.integers(-3, 3, (rows, 1))
    found = spread(np.insert(vectors, rng.integers(0, rows + 1, empty), 0, axis=0))
    cosines = cosine_similarity(vectors)[~np.eye(rows, dtype=bool)]
    assert found["mean_cosine"] == pytest.approx(cosines.mean(), abs=1e-9)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    singular = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    share = singular[singular > 1e-6] / singular.sum()
    entropy = -(share * np.log(share)).sum() if share.size else -np.inf
    assert found["effective_rank"] == pytest.approx(np.exp(entropy), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 30), st.integers(2, 8), st.integers(0, 999))
def test_a_rotation_and_another_scale_or_order_change_nothing(rows: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, width))
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    other = spread(rng.permutation(vectors) @ turn * rng.uniform(0.1, 9))
    assert other == pytest.approx(spread(vectors), abs=1e-9)


def test_known_shapes_have_the_numbers_that_geometry_gives() -> None:
    corners = np.concatenate([np.eye(6), -np.eye(6)])
    assert spread(corners) == pytest.approx({"mean_cosine": -1 / 11, "effective_rank": 6.0})
    same = spread(np.full((50, 4), 0.3, np.float16))
    assert same == pytest.approx({"mean_cosine": 1.0, "effective_rank": 0.0})
    line = spread(np.array([[1.0, 0.1], [1.0, -0.1], [1.0, 0.1]]))
    assert line["effective_rank"] == pytest.approx(1.0, abs=1e-6)
    assert spread(np.eye(3)[:1]) == {"mean_cosine": None, "effective_rank": None}
    assert spread(np.zeros((9, 3)))["mean_cosine"] is None


def test_half_precision_of_healthy_vectors_hardly_moves_either_number() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40_000, 64)) + 0.2
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert spread(vectors.astype(np.float16)) == pytest.approx(spread(vectors), rel=1e-3)


def test_a_collapse_is_told_of_points_and_of_lines_and_of_nothing_else() -> None:
    rng = np.random.default_rng(0)
    frozen = spread(rng.standard_normal((500, 64)))
    point = spread(rng.standard_normal((500, 32)) * 0.05 + 1)
    flat = spread(np.outer(rng.standard_normal(500), np.ones(32)) + 1e-3 * rng.standard_normal((500, 32)))
    told = collapse_warning(point, frozen, "the item vectors")
    assert told is not None
    assert "cosine of 1.00" in told
    assert "0.93" in told
    told = collapse_warning(flat, frozen, "the user vectors")
    assert told is not None
    assert "less than a tenth" in told
    assert "user vectors" in told
    assert collapse_warning(flat, None, "the item vectors") is None
    assert collapse_warning(frozen, frozen, "the item vectors") is None
    assert collapse_warning(spread(np.zeros((3, 2))), frozen, "the item vectors") is None
