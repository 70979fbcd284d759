"""The results of an evaluation unit by unit, as Parquet, for statistics of one's own.

`queries.parquet` has a row per entrant, task and query; `labels.parquet` one per entrant, task, set of labels
and item; `agreement.parquet` one per entrant and item that has both a picture and words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoders.evaluation.measure import CUTOFFS
from encoders.evaluation.results import LabelResults, QueryResults, Results
from moonrec.domains import Domains

QUERIES_FILE, LABELS_FILE, AGREEMENT_FILE = "queries.parquet", "labels.parquet", "agreement.parquet"
QUERY_METRICS = (
    *(f"hit@{k}" for k in CUTOFFS), *(f"recall@{k}" for k in CUTOFFS), "mrr", "ndcg@10", "contrastive_loss"
)  # fmt: skip
_SCHEMAS = {
    QUERIES_FILE: pa.schema(
        [
            ("entrant", pa.string()),
            ("task", pa.string()),
            ("query_row", pa.int64()),
            ("domain", pa.string()),
            ("positives", pa.int32()),
            ("first_rank", pa.int64()),
            *((name, pa.float32()) for name in QUERY_METRICS),
        ]
    ),
    LABELS_FILE: pa.schema(
        [
            ("entrant", pa.string()),
            ("task", pa.string()),
            ("name", pa.string()),
            ("item_id", pa.string()),
            ("domain", pa.string()),
            ("label", pa.string()),
            ("predicted", pa.string()),
        ]
    ),
    AGREEMENT_FILE: pa.schema(
        [
            ("entrant", pa.string()),
            ("item_id", pa.string()),
            ("domain", pa.string()),
            ("own", pa.float32()),
            ("others", pa.float32()),
        ]
    ),
}


class ResultTables:
    """The three tables, written entrant by entrant into a folder that is not public yet."""

    def __init__(self, folder: Path, domains: Domains | None) -> None:
        self._folder = folder
        self._domains = domains
        self._stack = ExitStack()

    def __enter__(self) -> ResultTables:
        self._writers = {
            name: self._stack.enter_context(pq.ParquetWriter(self._folder / name, schema, compression="zstd"))
            for name, schema in _SCHEMAS.items()
        }
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def write(self, results: Results) -> None:
        """Add the rows of one entrant."""
        for name, columns in self._parts(results):
            rows = len(columns[-1])
            arrays = [pa.repeat(column, rows) if isinstance(column, str) else column for column in columns]
            schema = _SCHEMAS[name]
            cast = [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)]
            self._writers[name].write_table(pa.table(cast, schema=schema))

    def _parts(self, results: Results) -> Iterator[tuple[str, list[str | pa.Array]]]:
        for queries in results.queries:
            yield QUERIES_FILE, [results.name, queries.task, *self._of_queries(queries)]
        for labels in results.labels:
            yield LABELS_FILE, [results.name, labels.task, labels.labels.name, *self._of_labels(labels)]
        if results.agreement is not None:
            found = results.agreement.agreement
            yield (
                AGREEMENT_FILE,
                [
                    results.name,
                    self._ids(found.row_I),
                    self._named(results.agreement.domain_I),
                    pa.array(found.own_I),
                    pa.array(found.others_I),
                ],
            )

    def _of_queries(self, one: QueryResults) -> list[pa.Array]:
        values = [one.values[name] for name in QUERY_METRICS]
        return [
            pa.array(one.row_Q),
            self._named(one.domain_Q),
            pa.array(one.positives_Q),
            pa.array(one.first_rank_Q),
            *(pa.array(value, pa.float64(), mask=~np.isfinite(value)) for value in values),
        ]

    def _of_labels(self, one: LabelResults) -> list[pa.Array]:
        words = pa.array(one.labels.labels, pa.string())
        said = pa.array(one.predicted_J, mask=~one.judged_J())
        return [
            self._ids(one.labels.item_J),
            self._named(one.domain_J),
            words.take(pa.array(one.labels.class_J)),
            words.take(said),
        ]

    def _ids(self, rows: np.ndarray) -> pa.Array:
        assert self._domains is not None
        return self._domains.ids.take(pa.array(rows))

    def _named(self, codes: np.ndarray) -> pa.Array:
        if self._domains is None:
            return pa.nulls(len(codes), pa.string())
        return self._domains.names_of(codes)
