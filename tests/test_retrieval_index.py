"""Indexes of item vectors against exact search: recall, masks, small catalogues, reproducibility."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ctr.data.ragged import Ragged
from ctr.retrieval.index import KINDS, build_index, open_index
from ctr.retrieval.index.exact_scores import exact_scores
from moonrec import EmbeddingSet
from moonrec.embedding_set import EmbeddingSetWriter
from moonrec.errors import UserError

ITEMS, WIDTH = 3000, 16
FAISS_KINDS = [kind for kind in KINDS if kind != "exact"]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_items(folder: Path, items: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Clustered unit vectors in two batches; returns them as they are on disk, in float32."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, items // 40), width))
    vectors = unit(centres[rng.integers(0, len(centres), items)] + 0.5 * rng.normal(size=(items, width)))
    with EmbeddingSetWriter(folder, width, {}) as writer:
        for part in np.array_split(np.arange(items), min(2, items)):
            writer.write([f"i{number}" for number in part], vectors[part])
    return EmbeddingSet.open(folder).matrix().astype(np.float32)


def users_of(vectors: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    near = vectors[rng.integers(0, len(vectors), count)]
    return unit(near + 0.2 * rng.normal(size=near.shape))


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp(request.param) / "index"
    vectors = write_items(folder, ITEMS)
    result = build_index(folder, request.param, users_of(vectors, 400), model_fingerprint="m", k=20)
    return folder, vectors, result


def test_the_recall_that_is_reported_is_that_of_other_users_too(built: tuple) -> None:
    folder, vectors, result = built
    assert result["recall"] >= 0.93
    users = users_of(vectors, 200, seed=5)
    scores, items = open_index(folder, model_fingerprint="m").search(users, 20)
    exact = np.argsort(-(users @ vectors.T), axis=1, kind="stable")[:, :20]
    found = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(items.tolist(), exact.tolist(), strict=True)])
    assert found == pytest.approx(result["recall"], abs=0.05)
    own = np.take_along_axis(users @ vectors.T, items, axis=1)
    np.testing.assert_allclose(scores, own, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert result["kind"] == open_index(folder).kind
    assert result["bytes"] > vectors.size * 2


def test_masked_items_never_come_and_leave_no_gap(built: tuple) -> None:
    folder, vectors, _ = built
    users = users_of(vectors, 30)
    ranking = np.argsort(-(users @ vectors.T), axis=1, kind="stable")
    # From no mask over the very best to all but five items.
    lengths = np.array([0, 3, 50, 500, ITEMS - 5] * 6)
    masks = [np.sort(row[:length]) for row, length in zip(ranking, lengths, strict=True)]
    excluded = Ragged.of_lengths(np.concatenate(masks), lengths)
    scores, items = open_index(folder).search(users, 40, excluded)
    for number, (length, mask) in enumerate(zip(lengths, masks, strict=True)):
        found = items[number][items[number] >= 0]
        assert len(found) == len(set(found.tolist())) == min(40, ITEMS - length)
        assert not np.isin(found, mask).any()
        assert (scores[number, len(found) :] == -np.inf).all()


def test_more_results_than_items_are_all_items(built: tuple) -> None:
    folder, vectors, _ = built
    users = users_of(vectors, 3)
    _, items = open_index(folder).search(users, 10 * ITEMS)
    assert items.shape == (3, ITEMS)
    assert np.sort(items, axis=1).tolist() == [list(range(ITEMS))] * 3


def test_a_single_request_gets_what_it_gets_in_a_batch(built: tuple) -> None:
    folder, vectors, _ = built
    users, index = users_of(vectors, 70), open_index(folder)
    _, together = index.search(users, 10)
    alone = np.concatenate([index.search(user[None], 10)[1] for user in users])
    assert (together == alone).mean() > 0.99
    assert len(index.search(users[:0], 10)[1]) == 0


def test_a_users_list_does_not_depend_on_what_the_others_had(built: tuple) -> None:
    folder, vectors, _ = built
    users, index = users_of(vectors, 40), open_index(folder)
    rng = np.random.default_rng(2)
    lengths = np.array([0, 1, 5, 60, 900] * 8)
    masks = [np.sort(rng.choice(ITEMS, length, replace=False)) for length in lengths]
    excluded = Ragged.of_lengths(np.concatenate(masks), lengths)
    score_QK, item_QK = index.search(users, 30, excluded)
    for number in range(len(users)):
        own = np.array([number])
        score_K, item_K = index.search(users[own], 30, excluded.take(own))
        assert item_K[0].tolist() == item_QK[number].tolist()
        assert score_K[0].tolist() == score_QK[number].tolist()


def test_few_users_at_once_get_what_many_get(built: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, vectors, _ = built
    users, index = users_of(vectors, 50), open_index(folder)
    whole = index.search(users, 10)
    monkeypatch.setattr("ctr.retrieval.index.faiss_index._CANDIDATES_AT_ONCE", 30)
    for part, all_ in zip(index.search(users, 10), whole, strict=True):
        np.testing.assert_array_equal(part, all_)


@pytest.mark.parametrize("kind", FAISS_KINDS)
def test_of_equal_items_the_first_ones_come_first(tmp_path: Path, kind: str) -> None:
    twins = np.repeat(np.eye(4, dtype=np.float32), 30, axis=0)
    with EmbeddingSetWriter(tmp_path / "set", 4, {}) as writer:
        writer.write([f"i{number}" for number in range(len(twins))], twins)
    users = unit(np.array([[1, 0.2, 0, 0], [0, 0, 1, 0.2]]))
    build_index(tmp_path / "set", kind, users, model_fingerprint="m", k=120)
    found = open_index(tmp_path / "set").search(users, 120)[1]
    assert found[0, :60].tolist() == list(range(60))
    assert found[1, :60].tolist() == list(range(60, 120))


def test_what_does_not_fit_is_refused(built: tuple) -> None:
    index = open_index(built[0])
    for users, k in ((np.ones((1, 3)), 1), (np.full((1, WIDTH), np.nan), 1), (np.ones((1, WIDTH)), 0)):
        with pytest.raises(ValueError, match=r"width|finite|k is 0"):
            index.search(users, k)
    with pytest.raises(ValueError, match="excluded"):
        index.search(np.ones((2, WIDTH)), 1, Ragged(np.array([1])))


@pytest.mark.parametrize("kind", FAISS_KINDS)
@pytest.mark.parametrize(("items", "width"), [(1, 4), (10, 7), (100, 16), (700, 10)])
def test_small_catalogues_are_searched_too(tmp_path: Path, kind: str, items: int, width: int) -> None:
    vectors = write_items(tmp_path / "set", items, width)
    users = users_of(vectors, 9)
    result = build_index(tmp_path / "set", kind, users, model_fingerprint="m", k=100)
    assert result["k"] == min(100, items)
    assert result["recall"] >= 0.9
    assert ("note" in result["parameters"]) == (kind == "ivfpq")
    found = open_index(tmp_path / "set").search(users, 100)[1]
    assert (found >= 0).all()


@pytest.mark.parametrize("kind", FAISS_KINDS)
def test_the_same_seed_builds_the_same_file(tmp_path: Path, kind: str) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        vectors = write_items(folder, 1000)
        build_index(folder, kind, users_of(vectors, 20), model_fingerprint="m", k=5, seed=3)
        contents.append((folder / "index.faiss").read_bytes())
    assert contents[0] == contents[1]


def test_an_unreachable_recall_is_told_truthfully(tmp_path: Path) -> None:
    # No structure at all: codes of a few bits tell little.
    rng = np.random.default_rng(0)
    vectors = write_items(tmp_path / "set", 2000, 32)
    users = unit(rng.normal(size=(100, 32)))
    result = build_index(tmp_path / "set", "hnsw", users, model_fingerprint="m", k=10, recall=1.0)
    found = open_index(tmp_path / "set").search(users, 10)[1]
    exact = np.argsort(-(users @ vectors.T), axis=1, kind="stable")[:, :10]
    every = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    assert result["recall"] == pytest.approx(every, abs=0.05)


def test_exact_scores_are_those_of_the_vectors_on_disk(tmp_path: Path) -> None:
    vectors = write_items(tmp_path / "set", 500, 12)
    users = users_of(vectors, 150)
    items = np.random.default_rng(0).integers(-1, 500, (150, 30))
    scores = exact_scores(users, EmbeddingSet.open(tmp_path / "set"), items)
    expected = np.where(items < 0, -np.inf, np.take_along_axis(users @ vectors.T, items, axis=1))
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_without_faiss_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = write_items(tmp_path / "set", 20)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install moonrec\[index\]"):
        build_index(tmp_path / "set", "hnsw", users_of(vectors, 2), model_fingerprint="m")
    assert build_index(tmp_path / "set", "exact", vectors, model_fingerprint="m")["recall"] == 1
