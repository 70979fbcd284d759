"""`train-relevance` and `score-relevance` on a small simulated shop: the whole way, no leak, and mistakes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoder_helpers import Shop, picture, write_table
from relevance_case import MODEL, changed, exported, saved_encoder, with_nan

from encoders.relevance.score import ScoreRelevanceConfig, score_relevance
from encoders.relevance.terminal import terminal_lines
from encoders.relevance.train import RelevanceConfig, train_relevance
from moonrec.embedding_set import EmbeddingSetWriter
from moonrec.errors import UserError
from moonrec.metrics import gauc

pytest_plugins = ["encoder_fixtures"]


def config(shop: Shop, encoder: Path, place: Path, /, **options: Any) -> RelevanceConfig:
    found = RelevanceConfig(
        searches=shop.searches, test=shop.test_searches, items=shop.items, encoder=str(encoder),
        out=str(place), bootstrap=20, device="cpu", cache=shop.cache,
    )  # fmt: skip
    return replace(found, **options)


def scoring(shop: Shop, run: Path, out: Path, **options: Any) -> ScoreRelevanceConfig:
    found = ScoreRelevanceConfig(
        model=str(run), pairs=shop.test_searches, items=shop.items, out=str(out), device="cpu",
        cache=shop.cache,
    )  # fmt: skip
    return replace(found, **options)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_encoder(tmp_path_factory.mktemp("relevance") / "encoder")


@pytest.fixture(scope="module")
def run(shop: Shop, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("relevance") / "run"
    metrics = train_relevance(config(shop, encoder, out))
    assert json.loads((out / "metrics.json").read_text()) == metrics
    return out


@pytest.fixture(scope="module")
def embeddings(shop: Shop, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(shop, encoder, tmp_path_factory.mktemp("relevance") / "set")


def test_a_run_tells_everything_beside_the_cosine(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    pairs = pq.read_table(run / "pairs.parquet").to_pandas()
    label = pairs["kind"] == "taken"
    for score, numbers in (("relevance", metrics["test"]), ("cosine", metrics["baseline"]["cosine"])):
        higher = pairs[score][label].to_numpy()[:, None] - pairs[score][~label].to_numpy()[None]
        assert numbers["auc"] == pytest.approx(((higher > 0) + (higher == 0) / 2).mean())
        within = gauc(pairs["query_row"].to_numpy(), label.to_numpy(), pairs[score].to_numpy())
        assert numbers["query_auc"] == pytest.approx(within)
        low, high = numbers["ci"]["auc"]
        assert low <= numbers["auc"] <= high
    by_kind = {one["negative"]: one["pairs"] - one["positives"] for one in metrics["by_negative"]}
    assert by_kind == pairs["kind"][~label].value_counts().to_dict()
    assert {one["modality"]: one["pairs"] for one in metrics["by_modality"]} == (
        pairs["modality"].value_counts().to_dict()
    )
    groups = {one["group"] for one in metrics["differences"]}
    assert groups >= {"all", "modality: image", "modality: text", "negative: shown", "negative: any"}
    page = (run / "report.html").read_text()
    assert "Against the bare cosine" in page
    inputs = json.loads((run / "provenance.json").read_text())["inputs"]
    assert all(fingerprint in page for fingerprint in inputs.values())
    assert "data:image/jpeg" in page


def test_nothing_of_the_test_is_learnt_and_the_same_seed_gives_the_same_bits(
    shop: Shop, encoder: Path, run: Path, tmp_path: Path
) -> None:
    half = pq.read_table(shop.test_searches).slice(0, 25)
    pq.write_table(half, tmp_path / "half.parquet")
    train_relevance(config(shop, encoder, tmp_path / "run", test=str(tmp_path / "half.parquet")))
    assert (tmp_path / "run" / MODEL).read_bytes() == (run / MODEL).read_bytes()


def test_scores_are_those_that_were_measured(shop: Shop, run: Path, tmp_path: Path) -> None:
    told = score_relevance(scoring(shop, run, tmp_path / "scores.parquet"))
    scores = pq.read_table(tmp_path / "scores.parquet").to_pandas()
    searches = pq.read_table(shop.test_searches, columns=["item_id"])
    assert scores["item_id"].tolist() == searches["item_id"].to_pylist()
    assert scores["row"].tolist() == list(range(len(searches)))
    measured = pq.read_table(run / "pairs.parquet").to_pandas()
    measured = measured[measured["kind"] == "taken"].set_index(["query_row", "item_id"])
    both = scores.set_index(["row", "item_id"]).join(measured, rsuffix="_measured", how="inner")
    assert len(both) == len(measured) >= 40
    for name in ("relevance", "cosine"):
        np.testing.assert_allclose(both[name], both[f"{name}_measured"], atol=1e-5)
    assert told["rows"] == len(scores)
    assert told["same_catalogue"]


def test_an_embedding_set_of_the_encoder_stands_for_the_catalogue(
    shop: Shop, encoder: Path, run: Path, embeddings: Path, tmp_path: Path
) -> None:
    metrics = train_relevance(config(shop, encoder, tmp_path / "run", embeddings=str(embeddings)))
    whole = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["auc"] == pytest.approx(whole["test"]["auc"], abs=1e-3)
    given = scoring(shop, run, tmp_path / "a.parquet", embeddings=str(embeddings))
    score_relevance(given)
    score_relevance(scoring(shop, run, tmp_path / "b.parquet"))
    a, b = (pq.read_table(tmp_path / f"{name}.parquet").to_pandas() for name in "ab")
    np.testing.assert_allclose(a["relevance"], b["relevance"], atol=1e-3)


def test_unknown_items_and_empty_queries_are_null_and_counted(shop: Shop, run: Path, tmp_path: Path) -> None:
    known = shop.item_ids()[0]
    rows: list[dict[str, Any]] = [
        {"query_text": "red bag", "item_id": known},
        {"query_text": "red bag", "item_id": "nobody"},
        {"query_text": " ", "item_id": known},
        {"query_text": "blue bag", "item_id": known, "query_image": b"nothing"},
    ]
    pairs = write_table(tmp_path / "pairs.parquet", rows)
    told = score_relevance(scoring(shop, run, tmp_path / "out.parquet", pairs=str(pairs)))
    scores = pq.read_table(tmp_path / "out.parquet").to_pandas()
    assert scores["relevance"].isna().tolist() == [False, True, True, False]
    assert scores["relevance"].dropna().between(0, 1).all()
    assert (told["unknown_items"], told["empty_queries"], told["unknown_modality"]) == (1, 1, 0)
    assert told["broken_images"] == 1


def test_queries_of_words_alone_train_and_photo_queries_are_then_left_out(
    shop: Shop, encoder: Path, tmp_path: Path
) -> None:
    ids = shop.item_ids()
    titles = pq.read_table(shop.items, columns=["title"])["title"].to_pylist()
    rows = [{"query_text": " ".join(titles[n].split()[:2]), "item_id": ids[n]} for n in range(40)]
    searches = str(write_table(tmp_path / "words.parquet", rows))
    metrics = train_relevance(config(shop, encoder, tmp_path / "run", searches=searches))
    assert [one["modality"] for one in metrics["by_modality"]] == ["text"]
    assert metrics["test"]["queries_of_unknown_modality"] > 0
    told = score_relevance(scoring(shop, tmp_path / "run", tmp_path / "out.parquet"))
    scores = pq.read_table(tmp_path / "out.parquet").to_pandas()
    assert scores["relevance"].isna().sum() == told["unknown_modality"] > 0
    assert scores["cosine"].notna().all()


def test_what_was_taken_may_be_unknown_while_what_was_shown_is_not(
    shop: Shop, encoder: Path, tmp_path: Path
) -> None:
    ids = pq.read_table(shop.test_searches, columns=["item_id"])["item_id"].to_pylist()
    taken = ["gone" if number % 3 == 0 else key for number, key in enumerate(ids)]
    shown = [shop.item_ids()[number] for number in range(len(ids))]
    test = changed(shop.test_searches, tmp_path / "test.parquet", item_id=taken, negative_item_id=shown)
    metrics = train_relevance(config(shop, encoder, tmp_path / "run", test=test))
    assert metrics["test"]["queries_in_training"] == 0
    assert metrics["unknown_items"]["test"]["count"] == taken.count("gone")
    assert metrics["test"]["queries"] == len(ids)
    assert metrics["test"]["positives"] < len(ids)


def test_a_test_needs_both_labels_but_not_within_a_query(shop: Shop, encoder: Path, tmp_path: Path) -> None:
    ids = shop.item_ids()
    rows = [{"query_text": f"red bag {n}", "item_id": ids[n], "negative_item_id": ids[40]} for n in range(30)]
    words = str(write_table(tmp_path / "words.parquet", rows))
    left: dict[str, Any] = {"query_text": "blue lamp", "item_id": "gone", "negative_item_id": ids[1]}
    of_photo = write_table(tmp_path / "p.parquet", [left, {"query_image": picture(1), "item_id": ids[2]}])
    of_words = write_table(tmp_path / "w.parquet", [left, {"query_text": "green lamp", "item_id": ids[3]}])
    fixed = config(shop, encoder, tmp_path / "run", searches=words, negatives=0)
    with pytest.raises(UserError, match="have not both taken and other items"):
        train_relevance(replace(fixed, test=str(of_photo)))
    metrics = train_relevance(replace(fixed, test=str(of_words)))
    assert metrics["test"]["auc"] in (0, 1)
    assert metrics["test"]["query_auc"] is None
    assert "query_auc" in terminal_lines(metrics, "run")[0]


def test_test_queries_that_stand_in_training_are_counted_and_the_others_told_apart(
    shop: Shop, encoder: Path, tmp_path: Path
) -> None:
    seen, new = pq.read_table(shop.searches).slice(0, 10), pq.read_table(shop.test_searches)
    pq.write_table(pa.concat_tables([seen, new]), tmp_path / "test.parquet")
    metrics = train_relevance(config(shop, encoder, tmp_path / "run", test=str(tmp_path / "test.parquet")))
    assert metrics["test"]["queries_in_training"] == 10
    assert metrics["new_queries"]["queries"] == len(new)


def test_mistakes_are_told_in_one_line(shop: Shop, encoder: Path, tmp_path: Path) -> None:
    count = len(pq.read_table(shop.searches))
    other = changed(shop.searches, tmp_path / "other.parquet", item_id=["nobody"] * count)
    silent = changed(shop.searches, tmp_path / "silent.parquet", query_image=None, query_text=[" "] * count)
    unanswered = changed(shop.searches, tmp_path / "unanswered.parquet", negative_item_id=None)
    bad = tmp_path / "bad"
    with EmbeddingSetWriter(bad, 8, {}) as writer:
        writer.write(shop.item_ids(), np.eye(8)[np.arange(len(shop.item_ids())) % 8])
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(shop.searches).slice(0, 5), few)
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"test": shop.searches}, "is the same table as --searches"),
        ({"searches": other}, "name items that the catalogue lacks"),
        ({"searches": silent}, "no row has a usable query"),
        ({"searches": unanswered, "negatives": 0}, "gives no negative"),
        ({"searches": str(few)}, "5 distinct queries"),
        ({"negatives": -1}, "--negatives -1"),
        ({"encoder": str(tmp_path / "nothing")}, "no such folder"),
        ({"embeddings": str(bad)}, "was not made by this encoder"),
        ({"out": shop.searches}, "lies in the input --searches"),
    ]
    for options, message in mistakes:
        with pytest.raises(UserError, match=message) as told:
            train_relevance(config(shop, encoder, tmp_path / "run", **options))
        assert "\n" not in str(told.value)
        assert not (tmp_path / "run").exists()


def test_scoring_refuses_what_it_was_not_trained_with_and_vectors_that_are_not_finite(
    shop: Shop, encoder: Path, run: Path, embeddings: Path, tmp_path: Path
) -> None:
    found, other = json.loads((run / MODEL).read_text()), tmp_path / "other"
    shutil.copytree(run, other)
    for change, message in (
        ({"encoder_fingerprint": "f" * 64}, "fingerprints differ"),
        ({"levels": found["setting"]["levels"][:-1]}, "takes other features"),
        ({"encoder": str(tmp_path / "moved")}, "lies now with --encoder"),
    ):
        (other / MODEL).write_text(json.dumps(found | {"setting": found["setting"] | change}))
        with pytest.raises(UserError, match=message):
            score_relevance(scoring(shop, other, tmp_path / "out.parquet"))
    broken = with_nan(embeddings, tmp_path / "broken")
    with pytest.raises(UserError, match="not finite"):
        score_relevance(scoring(shop, run, tmp_path / "out.parquet", embeddings=str(broken)))
    assert not (tmp_path / "out.parquet").exists()
    with pytest.raises(UserError, match="is a folder"):
        score_relevance(scoring(shop, run, tmp_path))
