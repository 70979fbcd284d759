"""A whole run: what it finds on planted tastes, what it tells about it, and what its options do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retrieval_case import NEW, config_of, data_of, planted_log

from ctr.retrieval.train import default_batch_size, train_retrieval
from moonrec.embedding_set import EmbeddingSet

EPOCHS = 6
METHODS = ("test", "popularity", "item_knn", "content_mean")
MEASURES = {"recall@10", "recall@50", "recall@100", "recall@500", "ndcg@10", "mrr", "requests", "users"}
COVERAGE = {"coverage@10", "coverage@100"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return planted_log().save(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def run(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With vectors, of two seeds."""
    out = tmp_path_factory.mktemp("runs") / "content"
    train_retrieval(config_of(inputs, out, epochs=EPOCHS, seeds=2))
    return out


@pytest.fixture(scope="module")
def content(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def ids(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Without vectors; the categories tell half of the tastes from the others."""
    given = {name: value for name, value in inputs.items() if name != "embeddings"}
    return train_retrieval(config_of(given, tmp_path_factory.mktemp("runs") / "ids", epochs=EPOCHS))


def test_vectors_find_new_items_and_ids_do_not(content: dict[str, Any], ids: dict[str, Any]) -> None:
    new, of_ids = content["new_items"], ids["new_items"]
    assert new["requests"] == of_ids["requests"] > 100
    chance = new["among_new"]["chance"]["recall@10"]
    assert new["among_new"]["test"]["recall@10"] > 4 * chance
    assert of_ids["among_new"]["test"]["recall@10"] < 3 * chance
    assert new["test"]["recall@10"] > of_ids["test"]["recall@10"] + 0.2
    # What counts who took what has never seen them.
    for name in ("popularity", "item_knn"):
        assert new[name]["recall@500"] == 0


def test_the_model_finds_more_than_what_is_not_trained(content: dict[str, Any]) -> None:
    for name in ("popularity", "item_knn", "content_mean"):
        assert content["test"]["recall@50"] > content[name]["recall@50"], name
    told = {(one["baseline"], one["metric"], one["group"]): one for one in content["differences"]}
    one = told["popularity", "recall@100", "all"]
    assert 0 < one["ci_low"] < one["difference"] < one["ci_high"]
    assert {group for _, _, group in told} == {"all", "new", "among new"}


def test_no_vectors_have_collapsed(content: dict[str, Any], ids: dict[str, Any]) -> None:
    collapse = content["collapse"]
    for found in (collapse, collapse["users"], collapse["frozen"]):
        assert -0.1 < found["mean_cosine"] < 0.9
        assert 3 < found["effective_rank"] <= 14
    assert ids["collapse"]["frozen"] is None
    assert not any("Collapse" in warning for warning in content["warnings"])


def test_metrics_hold_what_scripts_rely_on(content: dict[str, Any], ids: dict[str, Any]) -> None:
    for metrics in (content, ids):
        assert set(METHODS) < metrics.keys()
        new = metrics["new_items"]
        for name in METHODS:
            if metrics is ids and name == "content_mean":
                assert metrics[name] is new[name] is new["among_new"][name] is None
                continue
            assert metrics[name].keys() >= MEASURES | COVERAGE
            assert new[name].keys() >= MEASURES | COVERAGE
        assert new["among_new"]["test"].keys() >= MEASURES
        assert {"mean_cosine", "effective_rank", "users", "frozen"} <= metrics["collapse"].keys()
        told = {"samples_per_second", "seconds", "rows", "epochs", "best_epoch", "temperature"}
        assert told <= metrics["train"].keys()
        assert {"target", "history", "catalogue"} <= metrics["coverage"].keys()
        assert metrics["index"].keys() == {"exact"}
        for group in metrics["groups"]:
            assert {"group", "requests", "recall@100"} <= group.keys()
        names = {"baseline", "metric", "group", "difference", "ci_low", "ci_high"}
        assert all(names <= one.keys() for one in metrics["differences"])
    assert content["coverage"]["target"] == content["coverage"]["catalogue"] == 1
    assert ids["coverage"]["target"] is None


def test_two_seeds_are_told_apart_and_together(content: dict[str, Any]) -> None:
    values = [one["test"]["recall@10"] for one in content["seeds"]]
    assert [one["seed"] for one in content["seeds"]] == [0, 1]
    assert values[0] != values[1]
    spread = content["spread"]["recall@10"]
    assert spread["values"] == values
    assert spread["sd"] == pytest.approx(np.std(values, ddof=1))
    assert content["test"]["recall@10"] == spread["mean"] == pytest.approx(np.mean(values))
    assert content["test"]["requests"] == content["seeds"][0]["test"]["requests"]
    # No seed has a say in what is not trained.
    assert content["popularity"]["requests"] == content["test"]["requests"]


def test_the_run_folder_holds_the_catalogues_vectors(run: Path, inputs: dict[str, Any]) -> None:
    items = EmbeddingSet.open(run / "index")
    assert items.ids.to_pylist() == [f"i{item:03}" for item in range(300)]
    assert items.dimension == 16
    files = {
        "config.yaml",
        "history.jsonl",
        "index",
        "metrics.json",
        "model",
        "provenance.json",
        "report.html",
    }
    assert files <= {path.name for path in run.iterdir()}
    assert not list(run.glob(".*"))
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert {line["seed"] for line in lines} == {0, 1}
    checked = [line for line in lines if "validation_recall@100" in line]
    assert len(checked) == 2 * EPOCHS
    assert all({"mean_cosine", "effective_rank", "temperature"} <= line.keys() for line in checked)


def test_training_stops_when_validation_recall_grows_no_more(inputs: dict[str, Any], tmp_path: Path) -> None:
    metrics = train_retrieval(
        config_of(inputs, tmp_path / "run", epochs=40, patience=2, sparse_learning_rate=0.5)
    )
    told = metrics["train"]
    assert told["epochs"] == told["best_epoch"] + 2 < 40
    assert not any("still growing" in warning for warning in metrics["warnings"])


def test_a_batch_that_leaves_one_row_over_counts_epochs_right(inputs: dict[str, Any], tmp_path: Path) -> None:
    """A row alone has no negatives: its step is left out."""
    rows = len(data_of(inputs).train)
    told = train_retrieval(config_of(inputs, tmp_path / "run", epochs=2, batch_size=rows - 1))["train"]
    assert told["epochs"] == 2
    assert told["best_epoch"] in (1, 2)


def test_context_of_events_and_users_is_learnt_from(inputs: dict[str, Any], tmp_path: Path) -> None:
    """`spent` tells the taste: whoever has it needs no history."""
    users = str(Path(inputs["events"]).with_name("users.parquet"))
    given = {"events": inputs["events"], "items": inputs["items"], "users": users}
    options: dict[str, Any] = {"epochs": 4, "history": 1, "unknown_share": 0.5}
    without = train_retrieval(config_of(given, tmp_path / "without", **options))
    context = {"categorical": ("device", "town"), "numeric": ("spent",)}
    told = train_retrieval(config_of(given, tmp_path / "with", **options, **context))
    assert told["test"]["recall@50"] > without["test"]["recall@50"] + 0.05


def test_targets_of_some_kinds_are_measured_alone(inputs: dict[str, Any], tmp_path: Path) -> None:
    metrics = train_retrieval(config_of(inputs, tmp_path / "run", epochs=1, targets=("buy",), requests=50))
    assert metrics["test"]["requests"] == 50
    assert metrics["train"]["rows"] == len(data_of(inputs, targets=("buy",)).train)


def test_new_items_are_those_that_training_never_took(inputs: dict[str, Any]) -> None:
    data = data_of(inputs)
    new_M = data.taken_C[data.catalogue.code_M] == 0
    assert new_M[-NEW:].all()
    # Nobody learns a row of theirs.
    assert not set(data.vocabulary.ids.items.to_pylist()) & {f"i{item}" for item in range(300 - NEW, 300)}


@pytest.mark.parametrize(("rows", "size"), [(10, 128), (10_000, 256), (40_000, 1_024), (10**7, 1_024)])
def test_an_epoch_of_little_data_has_smaller_steps(rows: int, size: int) -> None:
    assert default_batch_size(rows) == size
