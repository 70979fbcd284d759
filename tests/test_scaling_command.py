"""`moonrec scaling`: whole runs on tiny data, what is found again, and what it refuses before training."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from ctr_helpers import behaviour_table, planted_taste, write_with_times
from encoder_helpers import Shop, busy_encoder, random_features

from encoders.objective.encode_step import EncodeStep
from encoders.products import TEXT_ONLY
from moonrec.cli import main
from moonrec.cli.scaling_encoder import EncoderStudy
from moonrec.cli.scaling_history import history_lengths
from moonrec.cli.scaling_study import ScalingConfig, scaling_laws
from moonrec.cli.scaling_tokens import counted_tokens
from moonrec.scaling.axis import NEGATIVES
from moonrec.tables import EVENTS, IMPRESSIONS, open_table

pytest_plugins = ["encoder_fixtures"]

FAST = "batch_size=16,regions=false"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Inputs of a small click model, by flag."""
    paths = planted_taste(users=60, items=120, rows=1_200).save(tmp_path_factory.mktemp("log"))
    return {name: str(path) for name, path in paths.items()}


def call(flags: Mapping[str, str], out: Path, *arguments: str) -> Result:
    parts = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", value)]
    return CliRunner().invoke(main, ["scaling", *parts, "-o", str(out), *arguments])


def of_shop(shop: Shop, axis: str, **changed: str) -> dict[str, str]:
    return {
        "axis": axis, "items": shop.items, "searches": shop.searches, "test": shop.test_searches,
        "cache": shop.cache, "device": "cpu", "seeds": "1", "set": FAST,
    } | changed  # fmt: skip


def one_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr.strip().splitlines()[-1]


def test_histories_of_another_length_are_trained_tested_and_told(log: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = log | {"axis": "history", "seeds": "1", "points": "1,3,6,9", "set": "content=simtier"}
    result = call(flags, out, "--json")
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)
    assert set(metrics["metrics"]) == {"test.auc", "test.gauc"}
    for point in metrics["metrics"]["test.auc"]["points"]:
        run = out / "cells" / str(point["setting"]) / "0" / "run"
        assert json.loads((run / "metrics.json").read_text())["test"]["auc"] == point["mean"]
        assert f"history: {point['setting']}\n" in (run / "config.yaml").read_text()
    seen = [fact["mean history seen"] for fact in metrics["facts"]]
    assert seen == sorted(seen)
    assert seen[-1] <= 9
    far = call(flags | {"points": "1,2,100000000000"}, tmp_path / "far", "--plan")
    assert "--points 100000000000: no row of --impressions or --test has more than" in one_line(far)
    again = call({}, out, "--config", str(out / "config.yaml"))
    assert again.exit_code == 0, again.output
    assert json.loads((out / "provenance.json").read_text())["cells_computed"] == 0


def test_default_histories_are_doublings_that_the_log_can_fill(log: dict[str, str], tmp_path: Path) -> None:
    result = call(log | {"axis": "history"}, tmp_path / "run", "--plan", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["points"] == [1, 2, 4, 8]
    assert not (tmp_path / "run").exists()


def test_history_lengths_count_only_what_is_strictly_earlier(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    user_E, time_E = random.integers(0, 5, 80), random.integers(0, 30, 80)
    user_R, time_R = random.integers(0, 7, 50), random.integers(0, 30, 50)
    zeros = np.zeros(80, np.int64)
    write_with_times(behaviour_table(user_E, zeros, time_E), tmp_path / "events.parquet")
    write_with_times(behaviour_table(user_R, zeros[:50], time_R, zeros[:50]), tmp_path / "rows.parquet")
    found_R = history_lengths(
        open_table(tmp_path / "events.parquet", EVENTS), open_table(tmp_path / "rows.parquet", IMPRESSIONS)
    )
    expected = [((user_E == user) & (time_E < time)).sum() for user, time in zip(user_R, time_R, strict=True)]
    assert found_R.tolist() == expected


def test_tokens_that_were_really_trained_on_are_the_axis(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = call(
        of_shop(shop, "tokens", points="64,128,2048", set="batch_size=64,regions=false"), out, "--json"
    )
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)
    (curve,) = metrics["metrics"].values()
    for point, fact in zip(curve["points"], metrics["facts"], strict=True):
        cell = out / "cells" / str(point["setting"]) / "0"
        assert point["x"] == pytest.approx(fact["pairs"] * fact["tokens per pair"])
        assert 0 < fact["pairs"] <= point["setting"]
        assert fact["epochs"] == max(1, point["setting"] // 1024)
        (last,) = (cell / "encoder" / "epochs").iterdir()
        assert last.name.endswith(f"-{int(fact['epochs']):02d}")
        tested = json.loads((cell / "test" / "metrics.json").read_text())
        assert point["values"] == [tested["retrieval"]["image_to_item"]["hit@10"]]
    assert curve["fits"].keys() == {"log"}
    assert "too few for the power law" in curve["reasons"][0]


def test_negatives_are_those_of_the_batch_and_of_the_queue(shop: Shop, tmp_path: Path) -> None:
    config = ScalingConfig(
        axis=NEGATIVES.name, items=shop.items, searches=shop.searches, test=shop.test_searches,
        out=str(tmp_path / "run"), cache=shop.cache, device="cpu",
    )  # fmt: skip
    small = {"batch_size": "16", "epochs": "1", "pairs_per_epoch": "64", "cleaning": "none"}
    study = EncoderStudy(config, NEGATIVES, {**NEGATIVES.recipe, **small, "regions": "false"})
    asked, most = (study.compute(point, 0, tmp_path / str(point)) for point in (60, 5_000))
    assert asked.x == 60
    assert 60 < most.x <= 31 + len(shop.item_ids())
    assert asked.facts["pairs"] == most.facts["pairs"]


def test_tokens_are_counted_where_gradients_are() -> None:
    table, rows = random_features(rows=24), np.array([0, 1, 4, 9])
    step = EncodeStep(busy_encoder())
    cells = table.gather(rows).image_BGC.shape[1]
    pictures, words = table.has_image()[rows].sum() * cells, table.lengths()[rows].sum()
    with counted_tokens() as count:
        step([table.gather(rows), table.gather(rows, TEXT_ONLY)])
        with torch.no_grad():
            step([table.gather(rows)])
    assert count.tokens == pictures + 2 * words
    before = count.tokens
    step([table.gather(rows)])
    assert count.tokens == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"axis": "token"}, "--axis token: no such axis; expected one of tokens, negatives, history"),
        ({"metric": "hit@10"}, "--metric hit@10: tokens has no such metric"),
        ({"metric": "test.auc"}, "--metric test.auc"),
        ({"metric": "classification.level9.accuracy"}, "which has no level9"),
        ({"metric": "attributes.taste.f1"}, "which has no taste"),
        ({"points": "64,32,128"}, "--points 64,32: expected increasing"),
        ({"points": "0,32,128"}, "--points 0: expected whole numbers of at least 1"),
        ({"points": "32,many"}, "--points many: expected whole numbers"),
        ({"points": "32,64"}, "--points 32,64: expected at least 3"),
        ({"set": "epochs=3"}, "--set epochs: is not set here"),
        ({"set": "queue=3", "axis": "negatives"}, "--set queue: is not set here"),
        ({"set": "epoch=3"}, "`moonrec posttrain` has no such option"),
        ({"set": "rounds=1,2"}, "trains a single round"),
        ({"set": "rounds=1", "axis": "negatives"}, "trains a single round"),
        ({"set": "batch_size=few"}, "batch-size"),
        ({"axis": "negatives", "points": "8,64,128"}, "--points 8: the batch and its hard negatives"),
        ({"axis": "history"}, "--axis history needs --impressions"),
        ({"embeddings": "/nowhere"}, "--embeddings: is not read with --axis tokens"),
        ({"test": "/nowhere.parquet"}, "/nowhere.parquet"),
        ({"seeds": "0"}, "--seeds"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    changed: dict[str, str], message: str, shop: Shop, tmp_path: Path
) -> None:
    flags = of_shop(shop, "tokens", points="32,64,128") | changed
    assert message in one_line(call(flags, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_axis_of_training_wants_something_to_train_on(shop: Shop, tmp_path: Path) -> None:
    flags = of_shop(shop, "tokens")
    del flags["searches"]
    assert "needs --searches, --events, or both" in one_line(call(flags, tmp_path / "run"))


def test_a_test_that_was_trained_on_and_an_output_among_the_inputs_are_refused(
    shop: Shop, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.parquet"
    shutil.copy(shop.searches, copy)
    flags = of_shop(shop, "tokens", test=str(copy))
    assert "what they learnt" in one_line(call(flags, tmp_path / "run"))
    assert "lies in the input --items" in one_line(call(of_shop(shop, "tokens"), Path(shop.items) / "run"))


def test_python_gets_the_same(shop: Shop, tmp_path: Path) -> None:
    plan = scaling_laws(
        ScalingConfig(
            axis=NEGATIVES.name, items=shop.items, searches=shop.searches, test=shop.test_searches,
            out=str(tmp_path / "run"), set=tuple(FAST.split(",")), plan=True, device="cpu",
        )
    )  # fmt: skip
    assert plan["points"][0] == 31
    assert plan["points"][-1] <= 31 + 60
    assert len(plan["points"]) >= 4


def test_options_and_the_config_class_are_the_same() -> None:
    options = {str(option.name) for option in main.commands["scaling"].params}
    assert options - {"config", "json_", "no_cache", "help"} == {
        field.name for field in dataclasses.fields(ScalingConfig)
    }
