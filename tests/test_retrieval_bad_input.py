"""A user's mistake is one line that says what to do, exit code 2, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from ctr_helpers import write_with_times
from retrieval_case import DIMENSION, MINUTE, OPTIONS, planted_log

from moonrec.cli import main
from moonrec.embedding_set import EmbeddingSetWriter


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return planted_log(users=40).save(tmp_path_factory.mktemp("log"))


def run(options: dict[str, Any], *more: str) -> Result:
    options = {**OPTIONS, "epochs": 1, **options}
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return CliRunner().invoke(main, ["train-retrieval", *flags, *more])


def refused(options: dict[str, Any], *more: str) -> str:
    """The one line."""
    result = run(options, *more)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("Usage:", "Try ")) and line]
    assert len(lines) == 1, result.stderr
    assert not Path(options["out"]).exists()
    return lines[0]


def events_with(
    inputs: dict[str, Any], folder: Path, change: Callable[[pa.Table], pa.Table]
) -> dict[str, Any]:
    path = folder / "changed.parquet"
    pq.write_table(change(pq.read_table(inputs["events"])), path)
    return inputs | {"events": str(path), "out": str(folder / "run")}


def one_moment(table: pa.Table) -> pa.Table:
    same = pa.array(np.full(len(table), MINUTE)).cast(pa.timestamp("us", tz="UTC"))
    return table.set_column(table.column_names.index("timestamp"), "timestamp", same)


def two_moments(table: pa.Table) -> pa.Table:
    times = pa.array(np.arange(len(table)) % 2 * MINUTE).cast(pa.timestamp("us", tz="UTC"))
    return table.set_column(table.column_names.index("timestamp"), "timestamp", times)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop_columns(["item_id"]), ["item_id"]),
        (lambda table: table.slice(0, 0), ["no rows"]),
        (one_moment, ["no two moments", "give more events"]),
        (two_moments, ["nothing is left to stop by", "--test-share"]),
        (lambda table: table.slice(0, 1), ["no two moments"]),
        (lambda table: table.set_column(0, "user_id", pc.if_else(pa.array(np.arange(len(table)) == 3), None,
                                                                 table["user_id"])), ["user_id", "3"]),
    ],
)  # fmt: skip
def test_events_that_nothing_can_be_learnt_from(
    inputs: dict[str, Any], tmp_path: Path, change: Callable[[pa.Table], pa.Table], words: list[str]
) -> None:
    line = refused(events_with(inputs, tmp_path, change))
    assert "changed.parquet" in line
    assert all(word in line for word in words), line


def test_files_that_are_not_there(inputs: dict[str, Any], tmp_path: Path) -> None:
    for name in ("events", "items", "users", "embeddings", "test"):
        line = refused(inputs | {name: str(tmp_path / "nothing"), "out": str(tmp_path / "run")})
        assert str(tmp_path / "nothing") in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dim": 3}, ["--dim 3", "at least 4"]),
        ({"embedding_dim": 6}, ["--embedding-dim 6", "multiple of 4"]),
        ({"targets": "by"}, ["--targets by", "events.parquet"]),
        ({"categorical": "colour"}, ["colour"]),
        ({"numeric": "weight"}, ["weight"]),
        ({"numeric": "device"}, ["device"]),
        ({"test_share": 1.0}, ["--test-share"]),
        ({"batch_size": 1}, ["--batch-size"]),
        ({"index": "annoy"}, ["--index", "hnsw"]),
        ({"learning_rate": "nan"}, ["--learning-rate"]),
        ({"seed": 2**63 - 1, "seeds": 2}, ["--seeds 2"]),
        ({"learning_rate": 1e30, "epochs": 3}, ["not finite", "--learning-rate"]),
        ({"min_count": 10_000, "embeddings": None, "items": None}, ["--min-count"]),
    ],
)
def test_options_that_cannot_be(
    inputs: dict[str, Any], tmp_path: Path, options: dict[str, Any], words: list[str]
) -> None:
    merged = {**inputs, **options, "out": str(tmp_path / "run")}
    line = refused({name: value for name, value in merged.items() if value is not None})
    assert all(word in line for word in words), line


def test_a_catalogue_of_which_nothing_is_known(inputs: dict[str, Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["x"], "title": ["never seen"]}), tmp_path / "items.parquet")
    given = {"events": inputs["events"], "items": str(tmp_path / "items.parquet")}
    line = refused(given | {"out": str(tmp_path / "run")})
    assert "items.parquet: no item can be retrieved" in line
    assert "--embeddings" in line


def test_kinds_of_a_table_without_kinds(inputs: dict[str, Any], tmp_path: Path) -> None:
    options = events_with(inputs, tmp_path, lambda table: table.drop_columns(["event"]))
    line = refused(options | {"targets": "buy"})
    assert "'event'" in line
    assert "--targets buy" in line


def test_an_output_among_the_inputs(inputs: dict[str, Any]) -> None:
    result = run(inputs | {"out": f"{inputs['embeddings']}/run"})
    assert result.exit_code == 2
    assert "--embeddings" in result.stderr


def vectors_at(folder: Path, ids: list[str], vectors: np.ndarray) -> str:
    with EmbeddingSetWriter(folder, DIMENSION, {}) as writer:
        writer.write(pa.array(ids), vectors)
    return str(folder)


def test_vectors_that_are_no_numbers(inputs: dict[str, Any], tmp_path: Path) -> None:
    """An export refuses them; a set that was made elsewhere may hold them."""
    folder = Path(vectors_at(tmp_path / "set", [f"i{item:03}" for item in range(3)], np.eye(3, DIMENSION)))
    path = folder / "vectors.arrow"
    one, nan = np.float16(1).tobytes(), np.float16(np.nan).tobytes()
    # The vectors are zeros but for three ones.
    assert path.read_bytes().count(one) >= 3
    path.write_bytes(path.read_bytes().replace(one + bytes(2 * DIMENSION), nan + bytes(2 * DIMENSION), 1))
    line = refused(inputs | {"embeddings": str(folder), "out": str(tmp_path / "run")})
    assert str(folder) in line


def test_vectors_of_other_items_are_warned_of(inputs: dict[str, Any], tmp_path: Path) -> None:
    """With them the model is one of ids and categories."""
    folder = vectors_at(tmp_path / "set", ["x", "y"], np.eye(2, DIMENSION))
    result = run(inputs | {"embeddings": folder, "out": str(tmp_path / "run")})
    assert result.exit_code == 0, result.output
    assert "knows no item of the catalogue" in result.stderr


def late_table(inputs: dict[str, Any], folder: Path, **columns: list[Any]) -> str:
    table = pa.table({
        "user_id": ["u1", "u2"], "item_id": ["i001", "i002"], "timestamp": [20_000 * MINUTE] * 2, **columns
    })  # fmt: skip
    write_with_times(table, folder / "late.parquet")
    return str(folder / "late.parquet")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"timestamp": [0, 0], "user_id": ["u1", "u1"], "label": [0, 0]}, ["measure", "--test"]),
        ({"label": [0, 2]}, ["label", "late.parquet"]),
    ],
)
def test_a_test_table_that_measures_nothing(
    inputs: dict[str, Any], tmp_path: Path, columns: dict[str, list[Any]], words: list[str]
) -> None:
    path = late_table(inputs, tmp_path, **columns)
    line = refused(inputs | {"test": path, "out": str(tmp_path / "run")})
    assert all(word in line for word in words), line


def test_a_test_before_all_events_leaves_nothing_to_learn(inputs: dict[str, Any], tmp_path: Path) -> None:
    users = [f"u{user}" for user in range(40)]
    path = late_table(inputs, tmp_path, user_id=users, item_id=["i001"] * 40, timestamp=[0] * 40)
    line = refused(inputs | {"test": path, "out": str(tmp_path / "run")})
    assert "learn from" in line


def test_a_context_column_that_the_test_table_lacks(inputs: dict[str, Any], tmp_path: Path) -> None:
    path = late_table(inputs, tmp_path)
    line = refused(inputs | {"test": path, "categorical": "device", "out": str(tmp_path / "run")})
    assert "device" in line
    assert "late.parquet" in line


def test_users_and_items_that_training_never_saw_can_be_measured(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    path = late_table(inputs, tmp_path, user_id=["new", "u2"], item_id=["unheard of", "i002"])
    result = run(inputs | {"test": path, "out": str(tmp_path / "run")})
    assert result.exit_code == 0, result.output
    assert "are no candidates" in result.stderr
