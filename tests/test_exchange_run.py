"""An exchange rate over encoders (epochs of a training, and a run), and the parts of the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from encoder_helpers import busy_encoder

from moonrec.cli.exchange_demo import run_demo
from moonrec.cli.exchange_study import ExchangeConfig, exchange_rate
from moonrec.domains import item_domains
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.exchange.demo import RECIPES, STEPS, taste, write_searches
from moonrec.exchange.measure_queries import FEWEST_QUERIES
from moonrec.exchange.measures import measures
from moonrec.exchange.observations import Versions
from moonrec.exchange.steps import steps as single_steps
from moonrec.simulation import simulate
from moonrec.table_spec import ITEMS
from moonrec.tables import open_table


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market") / "data"
    simulate(folder, items=48, users=80, image_size=32)
    return folder


@pytest.fixture(scope="module")
def run(market: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Two epochs of one training and a run: random encoders, since nothing is asked of their quality."""
    folder = tmp_path_factory.mktemp("encoders")
    places = ("one/epochs/1-00/model", "one/epochs/1-01/model", "two/model", "other/epochs/1-00/model")
    for seed, place in zip((0, 1, 2, 0), places, strict=True):
        (folder / place).mkdir(parents=True)
        busy_encoder(seed).save_pretrained(folder / place)
    config = ExchangeConfig(
        items=str(market / "items.parquet"),
        searches=str(market / "searches_test.parquet"),
        impressions=str(market / "impressions_train.parquet"),
        test=str(market / "impressions_test.parquet"),
        events=str(market / "events.parquet"),
        trajectory=(f"one={folder / 'one'}", f"other={folder / 'other'}"),
        version=(f"two={folder / 'two'}",),
        judge=("content=simscore",),
        compare=("other/1-00:one/1-01",),
        seeds=1,
        dim=16,
        device="cpu",
        cache=str(folder / "cache"),
        out=str(folder / "study"),
    )
    return folder / "study", exchange_rate(config)


def test_epochs_of_a_training_are_versions_of_one_family(run: tuple[Path, dict[str, Any]]) -> None:
    versions = run[1]["versions"]
    assert [(v["name"], v["family"], v["kind"], v["dim"]) for v in versions] == [
        ("two", "two", "encoder", 16),
        ("one/1-00", "one", "encoder", 16),
        ("one/1-01", "one", "encoder", 16),
    ]
    assert {rate["families"] for rate in run[1]["rates"]} == {2}
    assert len({version["fingerprint"] for version in versions}) == 3


def test_the_start_that_two_trainings_share_counts_once(run: tuple[Path, dict[str, Any]]) -> None:
    told = "other/1-00 is the same encoder as one/1-00 and counts once, as one/1-00."
    assert told in run[1]["notes"]
    assert {(step["before"], step["after"]) for step in run[1]["steps"]} == {("one/1-00", "one/1-01")}


def test_a_width_that_no_encoder_was_trained_for_is_that_of_principal_directions(
    run: tuple[Path, dict[str, Any]],
) -> None:
    cell = run[0] / "cells" / "two"
    cut, whole = (
        np.concatenate(list(EmbeddingSet.open(cell / name).blocks())).astype(np.float64)
        for name in ("vectors", "vectors-whole")
    )
    assert (cut.shape[1], whole.shape[1]) == (16, 32)
    directions = np.linalg.svd(whole, full_matrices=False)[2][:16]
    expected = whole @ directions.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert cut @ cut.T == pytest.approx(expected @ expected.T, abs=3e-3)
    record = json.loads((cell / "vectors.json").read_text())
    assert record["options"]["narrowing"] == "principal directions"


def test_every_task_gives_metrics_that_are_those_of_evaluate(run: tuple[Path, dict[str, Any]]) -> None:
    for version in run[1]["versions"]:
        cell = run[0] / "cells" / version["name"].replace("/", "@") / "evaluation"
        evaluated = json.loads((cell / "metrics.json").read_text())
        found = version["metrics"]
        for task in ("image_to_item", "text_to_item", "item_to_item", "image_to_text", "text_to_image"):
            if evaluated["retrieval"][task]["queries"] < FEWEST_QUERIES:
                assert f"retrieval.{task}.mrr" not in found
                continue
            for name in ("hit@10", "mrr", "contrastive_loss"):
                expected = evaluated["retrieval"][task][name]
                assert found[f"retrieval.{task}.{name}"] == pytest.approx(expected, abs=1e-5)
        level = evaluated["classification"]["level1"]
        assert found["classification.level1.accuracy"] == pytest.approx(level["accuracy"])
        assert found["classification.level1.f1"] == pytest.approx(level["f1"])
        accuracies = [one["accuracy"] for one in evaluated["attributes"].values()]
        assert found["attributes.accuracy"] == pytest.approx(np.mean(accuracies))
        expected = evaluated["agreement"]["image_text"]
        expected = expected["value"] if isinstance(expected, dict) else expected
        assert found["agreement.image_text"] == pytest.approx(expected, abs=1e-5)


def test_the_judge_and_the_rates_stand_for_themselves(run: tuple[Path, dict[str, Any]]) -> None:
    judge = run[1]["judge"]
    assert judge["options"]["content"] == ["simscore"]
    assert set(judge["inputs"]) == {"impressions", "test", "events", "items"}
    assert len(judge["fingerprint"]) == 64
    assert all(not rate["established"] and "3 versions" in rate["why_not"] for rate in run[1]["rates"])
    steps = {(step["metric"], step["outcome"]) for step in run[1]["steps"] if step["domain"] == "all"}
    assert ("retrieval.image_to_item.hit@10", "auc") in steps
    page = (run[0] / "report.html").read_text()
    assert judge["fingerprint"] in page
    assert "not established" in (run[0] / "table.md").read_text()


def test_searches_of_the_demo_ask_with_skus_for_the_others_of_their_product(
    market: Path, tmp_path: Path
) -> None:
    count = write_searches(market, tmp_path / "searches.parquet")
    rows = pq.read_table(tmp_path / "searches.parquet").to_pylist()
    items = pq.read_table(market / "items.parquet", columns=["item_id", "product_id"]).to_pylist()
    product_of = {item["item_id"]: item["product_id"] for item in items}
    assert len({row["query_item_id"] for row in rows}) == count > 0
    for row in rows:
        assert row["item_id"] != row["query_item_id"]
        assert product_of[row["item_id"]] == product_of[row["query_item_id"]]


def test_the_taste_of_the_demo_is_near_for_items_that_look_alike(market: Path) -> None:
    truth = pq.read_table(market / "truth_items.parquet")
    vectors = taste(truth, seed=0)
    style = np.array(truth["visual_style"].to_pylist())
    upper = np.triu_indices(len(style), 1)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.corrcoef((vectors @ vectors.T)[upper], (style @ style.T)[upper])[0, 1] > 0.5


def test_the_demo_is_never_written_over_somebodys_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is nothing that the demo wrote"):
        run_demo(tmp_path, plan=True)


@pytest.mark.slow
def test_the_demo_shows_that_only_one_of_two_gains_of_recall_is_worth_clicks(tmp_path: Path) -> None:
    metrics = run_demo(tmp_path / "demo")
    assert len(EmbeddingSet.open(tmp_path / "demo" / "versions" / "blur-0")) == 2_400
    whole = {r["metric"]: r for r in metrics["rates"] if (r["domain"], r["outcome"]) == ("all", "auc")}
    top3, recall = whole["top3_cosine.auc"], whole["retrieval.image_to_item.hit@10"]
    assert top3["established"]
    assert top3["ci_low"] > 0
    assert top3["loo_error"] < recall["loo_error"]
    assert top3["r2"] > 0.8 > recall["r2"]
    verdicts = {
        (step["before"], step["after"]): step
        for step in metrics["steps"]
        if (step["domain"], step["outcome"], step["metric"]) == ("all", "auc", recall["metric"])
    }
    assert list(verdicts) == list(STEPS)
    for pair, step in verdicts.items():
        assert step["metric_ci_low"] > 0
        if RECIPES[pair[1]].code:
            assert step["outcome_ci_low"] < 0
            assert not step["verdict"].startswith("worth something")
            assert _verdict_of_one_decoy(tmp_path / "demo", *pair).startswith(_REFUSED)
        else:
            assert step["verdict"].startswith("worth something")


_REFUSED = ("worth nothing: the study excludes what the rate of the others promises", "costs")


def _verdict_of_one_decoy(demo: Path, before: str, decoy: str) -> str:
    """Of image search, had the study held no other decoy: these spoil the rate that the others promise."""
    names = [name for name, recipe in RECIPES.items() if name == decoy or not recipe.code]
    cells = demo / "study" / "cells"
    domains = item_domains(open_table(demo / "data" / "items.parquet", ITEMS))
    found = measures(
        [cells / name / "evaluation" for name in names],
        [cells / name / "judge" for name in names],
        3,
        domains,
    )
    told = single_steps(found.metrics, found.outcomes, Versions(names, names), [(before, decoy)])
    wanted = ("all", "auc", "retrieval.image_to_item.hit@10")
    step = next(step for step in told if (step.domain, step.outcome, step.metric) == wanted)
    assert step.shortfall_ci_high is not None
    assert step.shortfall_ci_high < 0
    return step.verdict
