from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieve_case import write_set

from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.data.ragged import Ragged
from ctr.retrieval import reasons as reasons_module
from ctr.retrieval.index.item_index import ExactIndex
from ctr.retrieval.new_places import place_count, with_new_items
from ctr.retrieval.reasons import reasons
from moonrec.embedding_set import EmbeddingSet

ITEMS, USERS, DIM = 40, 30, 6


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    path = tmp_path_factory.mktemp("new") / "set"
    vectors_ND = np.random.default_rng(0).normal(size=(ITEMS, DIM))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    write_set(path, [str(n) for n in range(ITEMS)], vectors_ND, None)
    return EmbeddingSet.open(path)


def some_masks(rng: np.random.Generator) -> Ragged:
    masks = [np.sort(rng.choice(ITEMS, rng.integers(0, 20), replace=False)) for _ in range(USERS)]
    return Ragged.of_lengths(np.concatenate(masks), np.array([len(mask) for mask in masks]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, ITEMS), new=st.integers(0, ITEMS))
def test_new_items_get_their_places_and_all_others_keep_their_order(
    vectors: EmbeddingSet, seed: int, k: int, new: int
) -> None:
    rng = np.random.default_rng(seed)
    user_QD = rng.normal(size=(USERS, DIM)).astype(np.float32)
    masked = some_masks(rng)
    is_new_N = np.zeros(ITEMS, bool)
    is_new_N[rng.choice(ITEMS, new, replace=False)] = True
    places = int(rng.integers(1, k + 1))
    score_QK, item_QK = ExactIndex(vectors).search(user_QD, k, masked)
    found_QK, list_QK = with_new_items(score_QK, item_QK, user_QD, vectors, is_new_N, masked, places)

    assert list_QK.shape == item_QK.shape
    score_QN = user_QD @ vectors.matrix().astype(np.float32).T
    for q in range(USERS):
        mask = masked.values[masked.offsets_R1[q] : masked.offsets_R1[q + 1]]
        allowed = np.setdiff1d(np.arange(ITEMS), mask)
        order = allowed[np.argsort(-score_QN[q, allowed], kind="stable")]
        wanted_new = [n for n in order if is_new_N[n]][:places]
        listed_new = [n for n in order[:k] if is_new_N[n]]
        kept_new = listed_new if len(listed_new) >= len(wanted_new) else wanted_new
        kept_old = [n for n in order[:k] if not is_new_N[n]][: k - len(kept_new)]
        assert sorted(list_QK[q][list_QK[q] >= 0]) == sorted([*kept_new, *kept_old])
        # The search is exact, so what was added scores no higher than what was there.
        there = list_QK[q] >= 0
        assert (np.diff(found_QK[q][there]) <= 1e-6).all()
        assert np.allclose(found_QK[q][there], score_QN[q][list_QK[q][there]], atol=1e-5)
        assert (found_QK[q][~there] == -np.inf).all()


@pytest.mark.parametrize("k", [1, 7, 100, 500])
def test_a_share_of_places_is_rounded_up_and_by_no_rounding_error(k: int) -> None:
    for hundredths in range(101):
        assert place_count(hundredths / 100, k) == -(-hundredths * k // 100)


def test_reasons_are_the_nearest_behaviours(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    table = rng.normal(size=(ITEMS + 1, DIM))
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    table[[0, 7]] = 0
    frozen = FrozenEmbeddings(torch.from_numpy(table))
    target_QK = rng.integers(0, ITEMS + 1, (USERS, 5))
    length_Q = rng.integers(0, 9, USERS)
    history = Ragged.of_lengths(rng.integers(0, 12, length_Q.sum()), length_Q)
    found = reasons(frozen, target_QK, history, top=3)
    for q in range(USERS):
        own = history.values[history.offsets_R1[q] : history.offsets_R1[q + 1]]
        last = {int(row): place for place, row in enumerate(own) if table[row].any()}
        for place, target in enumerate(target_QK[q]):
            pairs = sorted(((table[target] @ table[row], at) for row, at in last.items()), reverse=True)[:3]
            pairs = pairs if table[target].any() else []
            filled = [*(at for _, at in pairs), -1, -1, -1][:3]
            assert found.behaviour_QKT[q, place].tolist() == filled
            cosines = [cosine for cosine, _ in pairs]
            assert np.allclose(found.cosine_QKT[q, place][: len(pairs)], cosines, atol=1e-5)
            assert (found.cosine_QKT[q, place][len(pairs) :] == -np.inf).all()
    monkeypatch.setattr(reasons_module, "_NUMBERS", 1)
    assert np.array_equal(reasons(frozen, target_QK, history).behaviour_QKT, found.behaviour_QKT)


def test_reasons_of_nobody_are_none() -> None:
    frozen = FrozenEmbeddings(torch.zeros(1, DIM))
    empty = Ragged(np.zeros(0, np.int64), np.zeros(3, np.int64))
    assert (reasons(frozen, np.zeros((2, 4), np.int64), empty).behaviour_QKT == -1).all()
    with pytest.raises(ValueError, match="expected a history each"):
        reasons(frozen, np.zeros((1, 4), np.int64), empty)


def test_ids_with_no_vectors_at_all_still_make_lists(tmp_path: Path) -> None:
    """A model of ids alone has no set to look in."""
    from ctr import IndexConfig, RetrievalConfig, index_items, load_retrieval, train_retrieval

    rng = np.random.default_rng(2)
    rows = 400
    events = pa.table(
        {
            "user_id": [f"u{n}" for n in rng.integers(0, 30, rows)],
            "item_id": [f"i{n}" for n in rng.integers(0, 40, rows)],
            "timestamp": rng.integers(1_600_000_000, 1_600_900_000, rows),
        }
    )
    pq.write_table(events, tmp_path / "events.parquet")
    options: dict[str, Any] = {"dim": 8, "embedding_dim": 8, "epochs": 1, "history": 5}
    train_retrieval(RetrievalConfig(events=tmp_path / "events.parquet", out=tmp_path / "run", **options))
    index_items(IndexConfig(model=tmp_path / "run", out=tmp_path / "index"))
    found = load_retrieval(tmp_path / "run").retrieve(
        events, pa.table({"user_id": ["u1", "x"]}), 4, index=tmp_path / "index", new_share=0.5
    )
    assert found["source"].to_pylist() == ["model", "popularity"]
    assert [len(one) for one in found["item_ids"].to_pylist()] == [4, 4]
