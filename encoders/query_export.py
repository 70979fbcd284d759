"""From logs to a frozen embedding set of search queries, for ranking models that know what was asked.

The ids of the set are the query texts, character by character, so that a model finds a query by what stands
in its log. A query is encoded as evaluation encodes one: its text takes the place of a product's title, and
there is no picture. Distinct texts are collected first (memory: those texts), then they pass shard by shard,
as a catalogue does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from encoders.encoder import Encoder, Preparer
from encoders.encoding import shortened
from encoders.encoding_stream import encode_stream
from encoders.export import checked_dim
from encoders.loading import cache_folder, load_encoder
from encoders.look import Look
from encoders.precision import pick_device
from encoders.products import Aspect, Product, iter_items
from moonrec.embedding_set import EmbeddingSetWriter
from moonrec.errors import UserError
from moonrec.progress import progress
from moonrec.table_spec import Column, Kind
from moonrec.tables import ITEMS, Table, TableSpec, open_table

_COLUMN = "query_text"
_QUERIES = TableSpec("queries", (Column(_COLUMN, Kind.TEXT, required=True),))
_BATCH = 256
_FEWEST_TO_MERGE = 1 << 18


@dataclass(frozen=True)
class QueryExportConfig:
    """Options of `moonrec export --queries`, with the names of the flags.

    Attributes:
        encoder: a run folder, or `compact` (untrained).
        queries: tables with a column `query_text`: impressions, events, searches.
        out: the embedding set to write.
        items: the catalogue that an untrained encoder is fitted to; only for that.
        dim: keep only the first so many dimensions.
        device: where to compute.
        cache: folder of the feature cache (None: the default one, "": none).
    """

    encoder: str
    queries: tuple[str, ...]
    out: str
    items: str | None = None
    dim: int | None = None
    device: str = "auto"
    cache: str | None = None


def export_queries(config: QueryExportConfig) -> dict[str, Any]:
    """Encode the distinct query texts of some tables and write their embedding set; returns counts.

    Null and empty texts are left out; those without a single word (blanks) are counted as `empty`.

    Raises:
        UserError: no such encoder, a table without `query_text` or none with a text, `dim` larger than the
            encoder's, an untrained encoder without a catalogue, or a trained one with a catalogue.
    """
    started = time.perf_counter()
    tables = [open_table(path, _QUERIES) for path in config.queries]
    catalogue = None if config.items is None else open_table(config.items, ITEMS)
    device, cache = pick_device(config.device), cache_folder(config.cache)
    encoder, ready = load_encoder(config.encoder, catalogue)
    _check_catalogue(config, ready)
    dim = checked_dim(config.dim, encoder)
    texts = distinct_texts(tables)
    if not len(texts):
        raise UserError(f"{', '.join(map(str, config.queries))}: every {_COLUMN} is null or empty")
    preparer = encoder.preparer(cache, device)
    if catalogue is not None:
        products = Look(encoder, device, cache)(catalogue, iter_items(catalogue))
        encoder.calibrate(preparer.table(progress(products, "catalogue features")))
    encoder = encoder.to(device).eval()
    metadata: dict[str, object] = {
        "encoder_fingerprint": encoder.fingerprint(),
        "catalogue_fingerprint": catalogue.fingerprint() if catalogue is not None else None,
        "modality": "query",
        "matryoshka_sizes": [dim, *(size for size in encoder.config.dims if size < dim)],
    }
    rows = 0
    with EmbeddingSetWriter(Path(config.out), dim, metadata) as writer:
        for part, vectors in _encoded(texts, encoder, preparer, device):
            writer.write(part, shortened(vectors, dim))
            rows += len(part)
        if not rows:
            raise UserError(f"{', '.join(map(str, config.queries))}: no {_COLUMN} holds a word")
        writer.metadata |= {"empty": len(texts) - rows}
    seconds = time.perf_counter() - started
    return {
        "rows": rows,
        "empty": len(texts) - rows,
        "dimension": dim,
        "seconds": seconds,
        "queries_per_second": len(texts) / seconds,
    }


def distinct_texts(tables: Sequence[Table]) -> pa.Array:
    """The distinct non-empty query texts, in the order in which they first stand.

    That order lets a log that has grown find the features of yesterday's queries in the cache.
    """
    known = pa.chunked_array([], pa.large_string())
    pending: list[pa.Array] = []
    waiting = 0
    for table in tables:
        for batch in progress(table.batches([_COLUMN]), "query texts"):
            pending.append(pc.unique(batch[_COLUMN]).cast(pa.large_string()))
            waiting += len(pending[-1])
            # Merged when as many wait as are known: the work stays in proportion to the rows.
            if waiting > max(len(known), _FEWEST_TO_MERGE):
                known, pending, waiting = _merged(known, pending), [], 0
    texts = _merged(known, pending).combine_chunks()
    return texts.filter(pc.fill_null(pc.not_equal(texts, ""), False))


def _merged(known: pa.ChunkedArray, pending: list[pa.Array]) -> pa.ChunkedArray:
    everything = pa.chunked_array([*known.chunks, *pending], pa.large_string())
    return pa.chunked_array([pc.unique(everything)])


def _encoded(
    texts: pa.Array, encoder: Encoder, preparer: Preparer, device: torch.device
) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Texts with their unit vectors (n, E), shard by shard; those that show nothing are left out."""
    first = 0
    for shard in progress(encode_stream(encoder, preparer, _products(texts), device=device), "export"):
        shown = texts.slice(first, len(shard.empty)).filter(pa.array(~shard.empty))
        first += len(shard.empty)
        yield shown, shard.vectors[~shard.empty]


def _products(texts: pa.Array) -> Iterator[list[Product]]:
    """Queries as evaluation makes them (encoders/products.py): the words stand where a title would."""
    for first in range(0, len(texts), _BATCH):
        part = texts.slice(first, _BATCH).to_pylist()
        yield [Product(text, None, ((Aspect.TITLE, text.strip()),) if text.strip() else ()) for text in part]


def _check_catalogue(config: QueryExportConfig, ready: bool) -> None:
    if ready and config.items is not None:
        raise UserError(
            f"--items {config.items}: {config.encoder} is trained, so queries need no catalogue; export the "
            "catalogue by a command of its own, without --queries"
        )
    if not ready and config.items is None:
        raise UserError(
            f"--encoder {config.encoder}: an untrained encoder is fitted to a catalogue first; name with "
            "--items the one that its items are exported from"
        )
