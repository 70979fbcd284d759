"""Features of pairs against brute force over every pair, and queries that pass in windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from encoder_helpers import CPU, Shop, busy_encoder, write_table

from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.relevance.features import TEMPERATURE, PairFeatures
from encoders.relevance.item_vectors import ItemVectors, ShownVectors, category_numbers
from encoders.relevance.query_vectors import QueryVectors, query_windows
from moonrec.tables import SEARCHES, open_table

pytest_plugins = ["encoder_fixtures"]

N, Q, E = 40, 12, 8


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, E))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def items() -> ItemVectors:
    rng = np.random.default_rng(0)
    views: list[ShownVectors] = []
    for share in (0.9, 0.7, 0.7):
        has_N = rng.random(N) < share
        views.append(ShownVectors((unit(rng, N) * has_N[:, None]).astype(np.float16), has_N))
    names = rng.choice(["A > X", "A > Y", "B > X", "B"], N).tolist()
    names[3] = None
    column = pa.chunked_array([pa.array(names, pa.string())])
    levels, level_NL = category_numbers(column, None)
    products = np.repeat(np.arange(N // 2), 2)
    ids = pa.array([f"i{number}" for number in range(N)])
    whole, picture, words = views
    return ItemVectors(ids, whole, picture, words, products, np.full(N, -1), column, levels, level_NL)


@pytest.fixture(scope="module")
def queries() -> QueryVectors:
    rng = np.random.default_rng(1)
    has_picture, has_words = np.arange(Q) % 3 != 0, np.arange(Q) % 3 != 1
    parts = [unit(rng, Q).astype(np.float32) for _ in range(3)]
    return QueryVectors(
        parts[0], parts[1] * has_picture[:, None], parts[2] * has_words[:, None], has_picture, has_words
    )


def test_features_are_those_of_brute_force(items: ItemVectors, queries: QueryVectors) -> None:
    features = PairFeatures(items)
    own_Q = np.where(np.arange(Q) % 4 == 0, np.arange(Q), -1)
    query_P, item_P = (part.ravel() for part in np.meshgrid(np.arange(Q), np.arange(N), indexing="ij"))
    found = features(queries, features.neighbours(queries, own_Q), query_P, item_P)
    pairs = zip(query_P.tolist(), item_P.tolist(), strict=True)
    expected = [brute_force(items, queries, own_Q, q, i) for q, i in pairs]
    assert features.names[-2:] == ("category_1", "category_2")
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-4, atol=1e-4)


def brute_force(
    items: ItemVectors, queries: QueryVectors, own_Q: np.ndarray, query: int, item: int
) -> list[float]:
    whole = items.whole.vectors_NE.astype(np.float64) @ queries.whole_QE[query]
    cosine = whole[item] if items.whole.has_N[item] else np.nan
    values = [cosine]
    for vectors, has in (
        (queries.picture_QE, queries.has_picture_Q),
        (queries.words_QE, queries.has_words_Q),
    ):
        for shown in (items.picture, items.words):
            there = has[query] and shown.has_N[item]
            values.append(float(vectors[query] @ shown.vectors_NE[item]) if there else np.nan)
    candidates = [one for one in range(N) if items.whole.has_N[one] and one != own_Q[query]]
    values.append(cosine / TEMPERATURE - np.log(sum(np.exp(whole[one] / TEMPERATURE) for one in candidates)))
    nearest = sorted(candidates, key=lambda one: -whole[one])[:32]
    others = [one for one in nearest if items.product_N[one] != items.product_N[item]]
    weights = np.array([np.exp(whole[one] / TEMPERATURE) for one in others])
    for level in range(2):
        own = items.level_NL[item, level]
        same = np.array([items.level_NL[one, level] == own for one in others])
        values.append(float((weights * same).sum() / weights.sum()) if own >= 0 else np.nan)
    return values


def test_an_item_does_not_vouch_for_its_own_category() -> None:
    """The only item of a category, equal to the query: its neighbourhood without it is of another one."""
    vectors = np.eye(4, E, dtype=np.float16)
    everything = ShownVectors(vectors, np.ones(4, bool))
    column = pa.chunked_array([pa.array(["A", "B", "B", "B"])])
    levels, level_NL = category_numbers(column, None)
    items = ItemVectors(
        pa.array(list("abcd")), everything, everything, everything,
        np.arange(4), np.full(4, -1), column, levels, level_NL,
    )  # fmt: skip
    one = np.eye(1, E, dtype=np.float32)
    queries = QueryVectors(one, one, one, np.ones(1, bool), np.ones(1, bool))
    features = PairFeatures(items)
    near = features.neighbours(queries, np.array([-1]))
    found = features(queries, near, np.array([0, 0]), np.array([0, 1]))
    agreement = found[:, features.names.index("category_1")]
    assert agreement[0] == 0
    assert agreement[1] < 1e-6  # all but nothing of the weight is on the equal item, which is of A


def started(folder: Path, shop: Shop) -> WorkingEncoder:
    busy_encoder().save_pretrained(folder)
    return WorkingEncoder.start(str(folder), None, CPU, Path(shop.cache))


def test_windows_give_every_row_its_query_and_encode_equal_ones_once(shop: Shop, tmp_path: Path) -> None:
    texts = [f"red bag {number % 7 if number < 300 else number % 11}" for number in range(600)]
    texts[5] = " "
    path = write_table(tmp_path / "searches.parquet", [{"query_text": one, "item_id": "i"} for one in texts])
    searches = open_table(path, SEARCHES)
    worker = started(tmp_path / "encoder", shop)
    (whole,) = query_windows(searches, worker, 600, "queries")
    assert len(whole.vectors) == len(whole.keys) == 12
    assert whole.vectors.modality_Q()[whole.query_n[5]] == -1
    parts = list(query_windows(searches, worker, 256, "queries"))
    assert [(one.first_row, len(one.query_n)) for one in parts] == [(0, 256), (256, 256), (512, 88)]
    assert [len(one.vectors) for one in parts] == [8, 11, 11]
    rows_NE = np.concatenate([one.vectors.whole_QE[one.query_n] for one in parts])
    np.testing.assert_allclose(rows_NE, whole.vectors.whole_QE[whole.query_n], atol=1e-6)
    for one in parts:
        shown = [texts[row] for row in one.row_Q]
        assert [shown[number] for number in one.query_n] == texts[one.first_row :][: len(one.query_n)]


def test_a_query_of_one_modality_is_its_whole_vector(shop: Shop, tmp_path: Path) -> None:
    searches = open_table(shop.test_searches, SEARCHES)
    worker = started(tmp_path / "encoder", shop)
    (window,) = query_windows(searches, worker, searches.count_rows(), "queries")
    vectors = window.vectors
    shows_words = np.asarray(searches.read(["query_text"]).column("query_text").is_valid())
    assert (vectors.has_words_Q[window.query_n] == shows_words).all()
    assert vectors.modality_Q().min() >= 0
    for single, other_QE in (
        (vectors.has_words_Q, vectors.picture_QE),
        (vectors.has_picture_Q, vectors.words_QE),
    ):
        assert (~single).any()
        np.testing.assert_allclose(other_QE[~single], vectors.whole_QE[~single], atol=1e-4)
