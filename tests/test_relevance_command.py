"""`moonrec train-relevance` and `moonrec score-relevance` by the command line: whole runs, and mistakes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from encoder_helpers import Shop
from relevance_case import MODEL, changed, exported, saved_encoder, with_nan

from encoders.relevance.score import ScoreRelevanceConfig
from encoders.relevance.train import RelevanceConfig
from moonrec.cli import main

pytest_plugins = ["encoder_fixtures"]

TRAIN, SCORE = "train-relevance", "score-relevance"
TABLES = [(TRAIN, "searches"), (TRAIN, "test"), (SCORE, "pairs")]
QUALITY = {"auc", "average_precision", "query_auc", "ci"}
CALIBRATION = {"logloss", "ece", "bins"}
COUNTS = {"pairs", "positives", "queries"}


@pytest.fixture(scope="module")
def paths(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What both commands read, by flag."""
    folder = tmp_path_factory.mktemp("relevance")
    encoder = saved_encoder(folder / "encoder")
    embeddings = exported(shop, encoder, folder / "set")
    return {
        "searches": shop.searches, "test": shop.test_searches, "pairs": shop.test_searches,
        "items": shop.items, "encoder": str(encoder), "embeddings": str(embeddings),
        "cache": shop.cache, "device": "cpu", "bootstrap": "20", "model": str(folder / "run"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(paths: dict[str, str]) -> dict[str, Any]:
    """What the command prints of the training that `--model` names."""
    result = call(TRAIN, paths, Path(paths["model"]), "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def call(command: str, paths: dict[str, str], out: Path, *arguments: str) -> Result:
    """The command, with those of the paths that it knows."""
    known = {option.name for option in main.commands[command].params}
    flags = [text for name, value in paths.items() if name in known for text in (f"--{name}", value)]
    return CliRunner().invoke(main, [command, *flags, "-o", str(out), *arguments])


def refused(command: str, paths: dict[str, str], place: Path) -> str:
    """The line that a mistake is told in; nothing is left where the output was to be."""
    place.mkdir()
    result = call(command, paths, place / "out")
    assert result.exit_code == 2, result.output
    assert not result.stdout
    (line,) = result.stderr.splitlines()
    assert not list(place.iterdir())
    return line


def rows_of(scores: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(scores).to_pylist()
    return found


def first_changed(column: str, value: Any) -> Callable[[str, Path], str]:
    """A maker of tables whose first row has another value in a column of texts."""

    def make(path: str, out: Path) -> str:
        values = pq.read_table(path, columns=[column])[column].to_pylist()
        return changed(path, out, **{column: [value, *values[1:]]})

    return make


def all_changed(column: str, values: Callable[[int], pa.Array | None]) -> Callable[[str, Path], str]:
    """A maker of tables with another column, given the number of rows."""
    return lambda path, out: changed(path, out, **{column: values(pq.read_metadata(path).num_rows)})


def without_queries(path: str, out: Path) -> str:
    return changed(path, out, query_text=None, query_image=None)


def without_rows(path: str, out: Path) -> str:
    pq.write_table(pq.read_table(path).slice(0, 0), out)
    return str(out)


def no_parquet(_: str, out: Path) -> str:
    out.write_text("query_text,item_id\nred bag,1\n")
    return str(out)


def missing(_: str, out: Path) -> str:
    return str(out)


def not_utf8(rows: int) -> pa.Array:
    texts = pa.array([b"\xff"] * rows)
    return pa.Array.from_buffers(pa.string(), rows, texts.buffers())


def nans(rows: int) -> pa.Array:
    return pa.array([float("nan")] * rows)


def test_training_writes_the_documented_metrics_and_a_page(
    paths: dict[str, str], trained: dict[str, Any]
) -> None:
    run = Path(paths["model"])
    metrics = json.loads((run / "metrics.json").read_text())
    assert {name: value for name, value in trained.items() if name != "lines"} == metrics
    assert metrics["test"].keys() == QUALITY | CALIBRATION | COUNTS | {
        "queries_in_training", "queries_of_unknown_modality",
    }  # fmt: skip
    assert metrics["baseline"]["cosine"].keys() == QUALITY | CALIBRATION
    groups = {"by_modality": "modality", "by_negative": "negative"}
    for name, group in groups.items():
        assert all(one.keys() == QUALITY | COUNTS | {group, "cosine"} for one in metrics[name])
    assert metrics["new_queries"].keys() == QUALITY | COUNTS | {"cosine"}
    assert {one["negative"] for one in metrics["by_negative"]} == {"shown", "same_category", "any"}
    assert {one["metric"] for one in metrics["differences"]} == {"auc", "average_precision", "query_auc"}
    assert all(one["ci_low"] <= one["ci_high"] for one in metrics["differences"])
    assert metrics["model"].keys() == {"form", "c", "calibration", "weights", "tried"}
    assert metrics["training"].keys() == {"queries", "pairs", "kinds", "share_of_positives"}
    assert sum(metrics["training"]["kinds"].values()) == metrics["training"]["pairs"]
    assert metrics["positive_cosine"].keys() == {"training", "test"}
    assert metrics["unknown_items"].keys() == {"searches", "test"}
    assert metrics["broken_images"]["count"] == 0
    left = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert left >= {"metrics.json", "pairs.parquet", "report.html", "config.yaml", str(MODEL)}


def test_a_run_can_be_made_again_from_its_own_config(
    paths: dict[str, str], trained: dict[str, Any], tmp_path: Path
) -> None:
    run = Path(paths["model"])
    result = call(TRAIN, {}, tmp_path / "again", "--config", str(run / "config.yaml"), "--json")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again" / MODEL).read_bytes() == (run / MODEL).read_bytes()
    assert json.loads(result.stdout)["test"] == trained["test"]


@pytest.mark.usefixtures("trained")
def test_scores_are_probabilities_in_the_order_of_the_rows(paths: dict[str, str], tmp_path: Path) -> None:
    pairs = pq.read_table(paths["pairs"])
    backwards = tmp_path / "backwards.parquet"
    pq.write_table(pairs.take(list(range(len(pairs)))[::-1]), backwards)
    result = call(SCORE, paths, tmp_path / "scores.parquet", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["rows"], told["unknown_items"], told["same_catalogue"]) == (len(pairs), 0, True)
    scores = rows_of(tmp_path / "scores.parquet")
    assert [one["row"] for one in scores] == list(range(len(pairs)))
    assert [one["item_id"] for one in scores] == pairs["item_id"].to_pylist()
    assert all(0 < one["relevance"] < 1 and -1 <= one["cosine"] <= 1 for one in scores)
    assert len({one["relevance"] for one in scores}) > len(scores) / 2
    assert call(SCORE, paths | {"pairs": str(backwards)}, tmp_path / "other.parquet").exit_code == 0
    for name in ("relevance", "cosine"):
        found = [one[name] for one in rows_of(tmp_path / "other.parquet")]
        np.testing.assert_allclose(found[::-1], [one[name] for one in scores], atol=1e-6)


@pytest.mark.usefixtures("trained")
def test_an_unknown_item_is_null_and_counted(paths: dict[str, str], tmp_path: Path) -> None:
    gone = first_changed("item_id", "nobody")
    pairs = gone(paths["pairs"], tmp_path / "pairs.parquet")
    result = call(SCORE, paths | {"pairs": pairs}, tmp_path / "scores.parquet", "--json")
    assert json.loads(result.stdout)["unknown_items"] == 1
    first, *others = rows_of(tmp_path / "scores.parquet")
    assert first == {"row": 0, "item_id": "nobody", "relevance": None, "cosine": None}
    assert all(one["relevance"] is not None for one in others)
    learnt = call(
        TRAIN,
        paths | {"searches": gone(paths["searches"], tmp_path / "s.parquet")},
        tmp_path / "run",
        "--json",
    )
    unknown = json.loads(learnt.stdout)["unknown_items"]
    assert (unknown["searches"]["count"], unknown["searches"]["examples"]) == (1, ["nobody"])
    assert unknown["test"]["count"] == 0


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(("command", "option"), TABLES)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "no such file or folder"),
        (no_parquet, "not a Parquet file"),
        (without_rows, "the searches table has no rows"),
        (all_changed("item_id", lambda rows: None), "column 'item_id' is missing"),
        (without_queries, "column 'query_text or query_image' is missing"),
        (all_changed("item_id", lambda rows: pa.array(range(rows))), "column 'item_id' is int64"),
        (all_changed("query_text", nans), "column 'query_text' is double, expected string"),
        (all_changed("query_text", not_utf8), "row 0, column 'query_text': found b'\\xff'; expected UTF-8"),
        (first_changed("item_id", None), "row 0, column 'item_id': found null"),
        (first_changed("item_id", ""), "row 0, column 'item_id': found ''"),
        (all_changed("item_id", lambda rows: pa.array(["nobody"] * rows)), "items that the catalogue lacks"),
    ],
)
def test_a_wrong_table_of_queries_is_told_in_one_line(
    command: str,
    option: str,
    make: Callable[[str, Path], str],
    message: str,
    paths: dict[str, str],
    tmp_path: Path,
) -> None:
    table = make(paths[option], tmp_path / "table.parquet")
    line = refused(command, paths | {option: table}, tmp_path / "place")
    assert table in line
    assert message in line


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("command", [TRAIN, SCORE])
def test_a_wrong_catalogue_or_encoder_is_told_in_one_line(
    command: str, paths: dict[str, str], tmp_path: Path
) -> None:
    items = pq.read_table(paths["items"])
    twice = tmp_path / "twice.parquet"
    pq.write_table(pa.concat_tables([items, items.slice(0, 1)]), twice)
    nothing = str(tmp_path / "nothing")
    mistakes = [
        ("items", nothing, "no such file or folder"),
        ("items", without_rows(paths["items"], tmp_path / "empty.parquet"), "the items table has no rows"),
        ("items", str(twice), "duplicate item_id"),
        ("encoder", nothing, "no such folder"),
        ("embeddings", nothing, "no such embedding set"),
        ("embeddings", str(with_nan(Path(paths["embeddings"]), tmp_path / "nan")), "that are not finite"),
        ("device", "abacus", "--device abacus: no such device"),
    ]
    for number, (option, value, message) in enumerate(mistakes):
        line = refused(command, paths | {option: value}, tmp_path / str(number))
        assert message in line
        assert value in line


@pytest.mark.usefixtures("trained")
def test_a_model_that_is_none_or_damaged_is_told_in_one_line(paths: dict[str, str], tmp_path: Path) -> None:
    assert "holds no relevance model" in refused(
        SCORE, paths | {"model": paths["encoder"]}, tmp_path / "none"
    )
    other = tmp_path / "other"
    shutil.copytree(paths["model"], other)
    found = json.loads((other / MODEL).read_text())
    infinite = [float("inf")] * len(found["weights"])
    changes = [{"intercept": float("nan")}, {"weights": infinite}, {"weights": [1.0]}, {"format": 2}]
    for number, change in enumerate(changes):
        (other / MODEL).write_text(json.dumps(found | change))
        line = refused(SCORE, paths | {"model": str(other)}, tmp_path / str(number))
        assert f"{other / MODEL}: is damaged" in line
    (other / MODEL).write_text("{")
    assert str(other / MODEL) in refused(SCORE, paths | {"model": str(other)}, tmp_path / "cut")


@pytest.mark.usefixtures("trained")
def test_an_output_among_the_inputs_is_refused_and_they_stay_as_they_are(
    paths: dict[str, str], tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("encoder", "embeddings", "model")}
    for name, folder in folders.items():
        shutil.copytree(paths[name], folder)
    model = json.loads((folders["model"] / MODEL).read_text())
    setting = model["setting"] | {"encoder": str(folders["encoder"])}
    (folders["model"] / MODEL).write_text(json.dumps(model | {"setting": setting}))
    own = paths | {name: str(folder) for name, folder in folders.items()}
    unnamed = {name: value for name, value in own.items() if name != "encoder"}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    # With no --encoder the model tells where it is, and its weights are no less an input.
    cases = [
        *((TRAIN, own, name) for name in ("searches", "test", "items", "encoder", "embeddings")),
        *((SCORE, own, name) for name in ("model", "pairs", "items", "encoder", "embeddings")),
        (SCORE, unnamed, "encoder"),
    ]
    for command, given, name in cases:
        result = call(command, given, Path(own[name]) / "out")
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.splitlines()
        assert f"lies in the input --{name} {own[name]}" in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("option", "value"), [("negatives", "-1"), ("negatives", "nan"), ("bootstrap", "0"), ("seed", "-1")]
)
def test_numbers_that_mean_nothing_are_refused(
    option: str, value: str, paths: dict[str, str], tmp_path: Path
) -> None:
    result = call(TRAIN, paths | {option: value}, tmp_path / "run")
    assert result.exit_code == 2, result.output
    assert f"Invalid value for '--{option}': " in result.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("command", "config"), [(TRAIN, RelevanceConfig), (SCORE, ScoreRelevanceConfig)])
def test_options_and_the_config_classes_are_the_same(command: str, config: type) -> None:
    options = {str(option.name) for option in main.commands[command].params}
    assert options - {"config", "json_", "no_cache"} == {field.name for field in dataclasses.fields(config)}
