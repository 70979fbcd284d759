"""Many searches in one go: a table of queries in, a table of results out, in a stream.

Shapes: Q queries of a chunk, D width of the vectors, K results, R rows of the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoders.products import iter_queries
from encoders.search.searcher import Searcher
from moonrec.atomic import atomic_file
from moonrec.ids import rows_of
from moonrec.tables import SEARCHES, Table, TableSpec

# The name tells that words do not help to find a photo's core region, as in `searches`.
QUERIES = TableSpec(
    SEARCHES.name,
    tuple(SEARCHES.column(name) for name in ("query_text", "query_image", "query_item_id")),
    one_of=SEARCHES.one_of,
)
RESULTS = pa.schema(
    {"query_row": pa.int64(), "rank": pa.int32(), "item_id": pa.string(), "score": pa.float32()}
)
# Each chunk reads the whole set once; so many queries hide that behind the product. Ours.
CHUNK = 2048
_MOST_AT_ONCE = 2_000_000


def search_many(
    searcher: Searcher, queries: Table, k: int, out: Path, *, chunk: int = CHUNK
) -> dict[str, Any]:
    """Search for every row of `queries` and write `RESULTS`, row by row and rank by rank; returns counts.

    `query_row` counts the rows of `queries` from 0, over all of its files. A row in which the encoder sees
    nothing has no results. Where `query_item_id` says whose picture the query is, that item is left out.

    Args:
        searcher: what is asked.
        queries: a table of `QUERIES`.
        k: results per query, at least 1.
        out: the Parquet file.
        chunk: about so many queries are in memory, with their results; fewer where `k` is large.

    Raises:
        UserError: a value that may not stand in the table, an output that cannot be written, or what
            `Searcher.nearest` raises.
    """
    limit = min(chunk, _MOST_AT_ONCE // min(k, len(searcher.embeddings)))
    rows = found = 0
    with atomic_file(out) as temporary, pq.ParquetWriter(temporary, RESULTS) as writer:
        for row_Q, vectors_QD, own_Q, seen in _chunks(searcher, queries, limit):
            if len(row_Q):
                scores_QK, entry_QK = searcher.nearest(vectors_QD, k, own_Q)
                writer.write_table(_results(searcher, row_Q, scores_QK, entry_QK))
            found += len(row_Q)
            rows += seen
    broken = searcher.worker.preparer.broken
    return {"queries": rows, "empty": rows - found, "broken_images": broken.to_dict()}


def _chunks(
    searcher: Searcher, queries: Table, limit: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None, int]]:
    """Rows (Q,), vectors (Q, D) and own entries (Q,) of queries that show anything, and how many passed."""
    own_R = _own_entries(searcher, queries)
    rows: list[np.ndarray] = []
    vectors: list[np.ndarray] = []
    first = passed = 0
    for shard in searcher.worker.shards(iter_queries(queries), queries, "queries"):
        vectors_ND, empty_N = searcher.vectors(shard)
        row_N = np.arange(first, first + len(shard))
        if own_R is not None:
            # Words do not show the item whose picture stands beside them: it is an answer like the others.
            own_R[row_N[~shard.has_image()]] = -1
        rows.append(row_N[~empty_N])
        vectors.append(vectors_ND[~empty_N])
        first += len(shard)
        if first - passed >= limit:
            yield *_chunk(rows, vectors, own_R), first - passed
            rows, vectors, passed = [], [], first
    if rows:
        yield *_chunk(rows, vectors, own_R), first - passed


def _chunk(
    rows: list[np.ndarray], vectors: list[np.ndarray], own_R: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    row_Q = np.concatenate(rows)
    return row_Q, np.concatenate(vectors), None if own_R is None else own_R[row_Q]


def _own_entries(searcher: Searcher, queries: Table) -> np.ndarray | None:
    """The entry of the set that each query's picture belongs to (-1: none); None without such a column."""
    if "query_item_id" not in queries.column_names:
        return None
    own = queries.read(["query_item_id"]).column("query_item_id")
    return rows_of(own, searcher.embeddings.ids)


def _results(searcher: Searcher, row_Q: np.ndarray, scores_QK: np.ndarray, entry_QK: np.ndarray) -> pa.Table:
    kept_QK = entry_QK >= 0
    rank_K = np.arange(1, entry_QK.shape[1] + 1, dtype=np.int32)
    columns = [
        pa.array(np.repeat(row_Q, kept_QK.sum(axis=1))),
        pa.array(np.broadcast_to(rank_K, entry_QK.shape)[kept_QK]),
        searcher.embeddings.ids.take(pa.array(entry_QK[kept_QK])),
        pa.array(scores_QK[kept_QK]),
    ]
    return pa.table(columns, schema=RESULTS)
