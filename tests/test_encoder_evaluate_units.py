"""What an evaluation tells unit by unit, in the small and by domain, against the numbers made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from encoder_helpers import busy_encoder, picture, write_table
from sklearn.metrics import accuracy_score, f1_score

from encoders.evaluate import EvaluateConfig, evaluate
from encoders.evaluation.contrastive import TEMPERATURE
from encoders.evaluation.label_bootstrap import resampled_scores
from encoders.evaluation.label_sets import LabelSet
from encoders.evaluation.zero_shot import scores
from encoders.export import ExportConfig, export
from encoders.products import Aspect
from moonrec.embedding_set import EmbeddingSet
from moonrec.metrics import ranking_metrics
from moonrec.query_metrics import query_metrics

COLOURS = ("red", "green", "blue", "grey")
THINGS = ("Lamps", "Chairs", "Scarves")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop of three domains, whose searches show photos and words, and an encoder of random weights."""
    folder = tmp_path_factory.mktemp("units")
    items: list[dict[str, Any]] = [
        {
            "item_id": f"i{n:02}",
            "title": f"{COLOURS[n % 4]} {THINGS[n % 3]} {n}",
            "category": f"Home > {THINGS[n % 3]}",
            "attributes": {"colour": COLOURS[n % 4]},
            "image": picture(n),
        }
        for n in range(36)
    ]
    items += [{"item_id": "loose", "title": "no category", "image": None}]
    searches: list[dict[str, Any]] = [
        {"query_image": picture(100 + n), "query_text": f"{COLOURS[n % 4]} thing {n}", "item_id": f"i{n:02}"}
        for n in range(30)
    ]
    searches += [
        {"query_image": picture(100), "query_text": "red thing 0", "item_id": "i07"},
        {"query_image": picture(200), "query_text": "nobody sells it", "item_id": "gone"},
        {"query_image": picture(201), "query_text": "loose", "item_id": "loose"},
    ]
    write_table(folder / "items.parquet", items)
    write_table(folder / "searches.parquet", searches)
    busy_encoder().save_pretrained(folder / "encoder")
    return folder


def evaluated(folder: Path, out: Path, **options: Any) -> dict[str, Any]:
    named = {name: str(folder / f"{name}.parquet") for name in ("items", "searches")}
    defaults = named | {"encoder": str(folder / "encoder"), "cache": str(folder / "cache"), "device": "cpu"}
    return evaluate(EvaluateConfig(out=str(out), **(defaults | options)))


def exported(folder: Path, out: Path, **options: Any) -> None:
    given: dict[str, Any] = {"encoder": str(folder / "encoder"), "items": str(folder / "items.parquet")}
    given |= {"cache": str(folder / "cache"), "device": "cpu"}
    export(ExportConfig(out=str(out), **(given | options)))


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Any]:
    return evaluated(folder, folder / "run")


def rows(run: Path, table: str, **wanted: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(run / f"{table}.parquet").to_pylist()
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


def test_every_query_has_a_row_whose_mean_is_the_metric(folder: Path, measured: dict[str, Any]) -> None:
    for task, values in measured["retrieval"].items():
        found = rows(folder / "run", "queries", task=task)
        assert len(found) == values["queries"]
        assert {row["entrant"] for row in found} == {"main"}
        for name in ("hit@1", "hit@50", "recall@5", "mrr", "ndcg@10", "contrastive_loss"):
            told = [row[name] for row in found if row[name] is not None]
            assert values[name] == pytest.approx(np.mean(told), abs=1e-6), (task, name)
        for row in found:
            assert row["mrr"] == pytest.approx(1 / row["first_rank"] if row["first_rank"] else 0)
        missed = [row for row in found if row["first_rank"] == 0]
        assert [row["contrastive_loss"] for row in missed] == [None] * len(missed)


def test_a_query_has_its_row_its_positives_and_their_first_domain(folder: Path) -> None:
    found = {row["query_row"]: row for row in rows(folder / "run", "queries", task="image_to_item")}
    assert sorted(found) == [*range(30), 31, 32]
    assert (found[0]["positives"], found[1]["positives"]) == (2, 1)
    assert [found[n]["domain"] for n in (0, 1, 2)] == ["Lamps", "Chairs", "Scarves"]
    assert (found[31]["domain"], found[32]["domain"]) == (None, None)


def test_the_contrastive_loss_is_the_softmax_over_the_whole_catalogue(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    exported(folder, out)
    searches = [{"query_text": "", "query_item_id": f"i{n:02}", "item_id": f"i{n + 3:02}"} for n in range(9)]
    searches.append({"query_text": "", "query_item_id": "i00", "item_id": "i20"})
    paths = {"searches": str(write_table(tmp_path / "searches.parquet", searches)), "embeddings": str(out)}
    evaluated(folder, tmp_path / "run", encoder=None, **paths)
    vectors = EmbeddingSet.open(out)
    place = {name: row for row, name in enumerate(vectors.ids.to_pylist())}
    score_NN = vectors.matrix().astype(np.float64) @ vectors.matrix().astype(np.float64).T / TEMPERATURE
    for n, row in enumerate(rows(tmp_path / "run", "queries")):
        own = place[f"i{n:02}"]
        others = np.delete(score_NN[own], own)
        taken = [place[one["item_id"]] for one in searches if one["query_item_id"] == f"i{n:02}"]
        expected = np.mean([np.log(np.exp(others).sum()) - score_NN[own, item] for item in taken])
        assert row["contrastive_loss"] == pytest.approx(expected, abs=2e-3)


def test_labels_hold_what_each_item_was_taken_for(folder: Path, measured: dict[str, Any]) -> None:
    for task, name in (("classification", "level2"), ("attributes", "colour")):
        found = rows(folder / "run", "labels", task=task, name=name)
        right, said = [row["label"] for row in found], [row["predicted"] for row in found]
        values = measured[task][name]
        assert len(found) == values["items"] == 36
        assert values["accuracy"] == pytest.approx(accuracy_score(right, said))
        assert values["f1"] == pytest.approx(f1_score(right, said, average="macro"))
        low, high = values["ci"]["accuracy"]
        assert low <= values["accuracy"] <= high
        inside = [row for row in found if row["domain"] == "Chairs"]
        of_domain = measured["domains"]["Chairs"][task][name]
        assert of_domain["items"] == len(inside) == 12
        assert of_domain["accuracy"] == pytest.approx(
            np.mean([row["label"] == row["predicted"] for row in inside])
        )


def test_agreement_is_an_items_own_cosine_less_those_with_all_other_words(
    folder: Path, tmp_path: Path, measured: dict[str, Any]
) -> None:
    shown = {}
    for modality in ("image", "text"):
        out = tmp_path / modality
        exported(folder, out, modality=modality)
        vectors = EmbeddingSet.open(out)
        shown[modality] = dict(zip(vectors.ids.to_pylist(), vectors.matrix().astype(np.float64), strict=True))
    assert len(shown["image"]) == 36
    found = rows(folder / "run", "agreement")
    for row in found:
        picture_E = shown["image"][row["item_id"]]
        cosines = {name: float(picture_E @ words_E) for name, words_E in shown["text"].items()}
        assert row["own"] == pytest.approx(cosines.pop(row["item_id"]), abs=1e-2)
        assert row["others"] == pytest.approx(np.mean(list(cosines.values())), abs=1e-2)
    expected = np.mean([row["own"] - row["others"] for row in found])
    assert measured["agreement"]["image_text"] == pytest.approx(expected, abs=1e-6)
    assert measured["agreement"]["items"] == len(found) == 36


def test_domains_share_the_queries_out(measured: dict[str, Any]) -> None:
    domains = measured["domains"]
    assert set(domains) == set(THINGS)
    values = measured["retrieval"]["text_to_item"]
    parts = [parts["retrieval"]["text_to_item"] for parts in domains.values()]
    # All queries have a domain but one whose item is gone, and one whose item has no category.
    assert sum(part["queries"] for part in parts) == values["queries"] - 2 == 30
    for part in parts:
        low, high = part["ci"]["mrr"]
        assert low < part["mrr"] < high


def test_the_domains_are_those_of_the_level_asked_for(folder: Path, tmp_path: Path) -> None:
    found = evaluated(folder, tmp_path / "run", tasks=("text_to_item",), domain_level=1)
    assert set(found["domains"]) == {"Home"}


def test_intervals_follow_the_seed_and_hold_the_mean(
    folder: Path, tmp_path: Path, measured: dict[str, Any]
) -> None:
    again = evaluated(folder, tmp_path / "run", seed=0)
    assert again["retrieval"] == measured["retrieval"]
    values = measured["retrieval"]["image_to_item"]
    assert set(values["ci"]) == {name for name in values if "@" in name} | {"mrr", "contrastive_loss"}
    for name, (low, high) in values["ci"].items():
        assert low <= values[name] <= high, name
    assert json.loads((folder / "run" / "metrics.json").read_text()) == measured


def test_values_per_query_average_to_the_metrics_of_a_ranking() -> None:
    rng = np.random.default_rng(0)
    positives_Q = rng.integers(1, 15, 200)
    query_P = np.repeat(np.arange(200), positives_Q)
    ranks_P = np.concatenate([rng.choice(80, count, replace=False) + 1 for count in positives_Q])
    found = rng.random(len(query_P)) < 0.7
    told = query_metrics(ranks_P[found], query_P[found], positives_Q)
    averages = {name: float(value_Q.mean()) for name, value_Q in told.items()}
    assert averages == pytest.approx(ranking_metrics(ranks_P[found], query_P[found], positives_Q))


def test_resampled_labels_are_those_of_items_drawn_one_by_one() -> None:
    rng = np.random.default_rng(0)
    right_J, said_JX = rng.integers(0, 5, 300), rng.integers(0, 6, (300, 2))
    right_J[right_J == 3] = 2  # a class that is said, but right for nobody
    found_BXM = resampled_scores(right_J, said_JX, 1000, seed=0)
    slow = []
    for _ in range(150):
        drawn = rng.integers(0, 300, 300)
        labels = LabelSet("x", list("abcdef"), Aspect.CATEGORY, np.arange(300), right_J[drawn])
        one = scores(labels, said_JX[drawn, 1])
        assert one is not None
        slow.append((one["accuracy"], one["f1"]))
    assert found_BXM.shape == (1000, 2, 2)
    error = 4 * np.std(slow, axis=0) / math.sqrt(150)
    assert (np.abs(found_BXM[:, 1].mean(axis=0) - np.mean(slow, axis=0)) < error).all()
    assert found_BXM[:, 1].std(axis=0) == pytest.approx(np.std(slow, axis=0), rel=0.25)
