"""Query vectors: each distinct text once, as evaluation would encode it, in the space of the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from encoder_helpers import CPU, Shop, busy_encoder, write_table

from encoders.encoding import encode
from encoders.export import ExportConfig, export
from encoders.loading import COMPACT, load_encoder
from encoders.products import iter_queries
from encoders.query_export import QueryExportConfig, distinct_texts, export_queries
from moonrec.cli import main
from moonrec.embedding_set import EmbeddingSet
from moonrec.table_spec import Column, Kind, TableSpec
from moonrec.tables import SEARCHES, open_table

pytest_plugins = ["encoder_fixtures"]

WORDS = ["red dress", None, "", "  ", "blue shirt", "red dress", " red dress", "Red Dress", "été"]
DISTINCT = ["red dress", "blue shirt", " red dress", "Red Dress", "été"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an encoder that is ready."""
    folder = tmp_path_factory.mktemp("encoder")
    busy_encoder().save_pretrained(folder)
    return folder


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A table that is none of ours but has queries."""
    table = pa.table({"query_text": pa.array(WORDS, pa.string()), "page": pa.array(range(len(WORDS)))})
    pq.write_table(table, tmp_path / "log.parquet")
    return str(tmp_path / "log.parquet")


def exported(out: Path, encoder: Path | str, queries: tuple[str, ...], **options: Any) -> EmbeddingSet:
    config = QueryExportConfig(
        encoder=str(encoder), queries=queries, out=str(out), **({"device": "cpu", "cache": ""} | options)
    )
    counts = export_queries(config)
    found = EmbeddingSet.open(out)
    assert counts["rows"] == len(found)
    assert counts["empty"] == found.metadata["empty"]
    return found


def test_each_distinct_text_has_one_vector_under_its_exact_spelling(
    log: str, trained: Path, tmp_path: Path
) -> None:
    found = exported(tmp_path / "set", trained, (log,))
    assert found.ids.to_pylist() == DISTINCT
    assert found.metadata["empty"] == 1  # the blanks
    assert found.metadata["modality"] == "query"
    assert found.metadata["encoder_fingerprint"] == load_encoder(str(trained))[0].fingerprint()
    assert found.metadata["catalogue_fingerprint"] is None
    vectors = found.matrix().astype(np.float32)
    np.testing.assert_allclose(vectors[2], vectors[0], atol=2e-3)  # blanks around words say nothing
    assert vectors[0] @ vectors[1] < 0.99


def test_vectors_are_those_of_the_queries_that_evaluation_reads(trained: Path, tmp_path: Path) -> None:
    rows = [{"item_id": "1", "query_text": text} for text in DISTINCT]
    searches = str(write_table(tmp_path / "searches.parquet", rows))
    encoder, _ = load_encoder(str(trained))
    table = encoder.preparer(None, CPU).table(iter_queries(open_table(searches, SEARCHES)))
    expected, empty = encode(encoder, table, device=CPU)
    assert not empty.any()
    found = exported(tmp_path / "set", trained, (searches,))
    np.testing.assert_array_equal(found.matrix(), expected.astype(np.float16))


def test_several_tables_make_one_set(shop: Shop, trained: Path, log: str, tmp_path: Path) -> None:
    columns = [pq.read_table(path, columns=["query_text"]) for path in (log, shop.searches)]
    texts = {text for column in columns for text in column["query_text"].to_pylist() if text and text.strip()}
    found = exported(tmp_path / "set", trained, (log, shop.searches), dim=24)
    assert set(found.ids.to_pylist()) == texts
    assert found.dimension == 24
    again = exported(tmp_path / "again", trained, (log, shop.searches, log), dim=24)
    assert again.fingerprint == found.fingerprint


def test_the_untrained_encoder_puts_queries_into_the_space_of_its_catalogue(
    shop: Shop, log: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"cache": shop.cache, "device": "cpu"}
    export(ExportConfig(encoder=COMPACT, items=shop.items, out=str(tmp_path / "items"), **options))
    found = exported(tmp_path / "set", COMPACT, (log,), items=shop.items, **options)
    catalogue = EmbeddingSet.open(tmp_path / "items")
    assert found.metadata["encoder_fingerprint"] == catalogue.metadata["encoder_fingerprint"]
    assert found.metadata["catalogue_fingerprint"] == catalogue.metadata["catalogue_fingerprint"]


def test_distinct_texts_keep_their_first_order_over_many_batches(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = [f"query {n}" for n in random.integers(0, 400_000, 900_000)]
    pq.write_table(pa.table({"query_text": texts}), tmp_path / "log.parquet")
    spec = TableSpec("queries", (Column("query_text", Kind.TEXT),))
    table = open_table(tmp_path / "log.parquet", spec)
    assert distinct_texts([table, table]).to_pylist() == list(dict.fromkeys(texts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder", "{trained}", "--queries", "{items}"], "column 'query_text' is missing"),
        (["--encoder", "{trained}", "--queries", "{log}", "--items", "{items}"], "need no catalogue"),
        (["--encoder", "compact", "--queries", "{log}"], "fitted to a catalogue"),
        (["--encoder", "{trained}"], "--items, or logs with --queries"),
        (["--encoder", "{trained}", "--queries", "{log}", "--dim", "500"], "--dim 500"),
        (["--encoder", "{trained}", "--queries", "{log}", "--modality", "image"], "queries are text"),
        (["--encoder", "{trained}", "--queries", "{silent}"], "null or empty"),
        (["--encoder", "{trained}", "--queries", "{blank}"], "holds a word"),
        (["--encoder", "{trained}", "--queries", "no.parquet"], "no.parquet: no such file"),
    ],
)
def test_impossible_wishes_are_one_line_and_write_nothing(
    options: list[str], message: str, shop: Shop, trained: Path, log: str, tmp_path: Path
) -> None:
    names = {"trained": str(trained), "items": shop.items, "log": log}
    for name, text in (("silent", None), ("blank", " ")):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"query_text": pa.array([text, None], pa.string())}), path)
        names[name] = str(path)
    command = [
        "export",
        *(part.format(**names) for part in options),
        "--no-cache",
        "-o",
        str(tmp_path / "set"),
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()


def test_the_command_takes_tables_again_and_again_and_from_a_config(
    shop: Shop, trained: Path, log: str, tmp_path: Path
) -> None:
    common = ["export", "--encoder", str(trained), "--no-cache", "--device", "cpu"]
    repeated = [*common, "--queries", log, "--queries", shop.searches, "-o", str(tmp_path / "flags")]
    assert CliRunner().invoke(main, repeated).exit_code == 0
    (tmp_path / "c.yaml").write_text(f"queries: ['{log}', '{shop.searches}']\n")
    config = [*common, "--config", str(tmp_path / "c.yaml"), "-o", str(tmp_path / "yaml")]
    assert CliRunner().invoke(main, config).exit_code == 0
    sets = [EmbeddingSet.open(tmp_path / name) for name in ("flags", "yaml")]
    assert sets[0].fingerprint == sets[1].fingerprint
