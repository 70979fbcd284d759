"""`moonrec evaluate`: how good are the vectors at finding what users took? First task: image-search recall.

The user's photo is encoded alone, without words, and ranks the whole catalogue; exact, block by block. With
an encoder the photos are those of `searches`; with a ready embedding set alone, the query of a row is the
vector of its `query_item_id`, which is left out of its own ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from encoders.encoder import Encoder, Preparer
from encoders.encoding import encode, shortened
from encoders.loading import cache_folder, load_encoder
from encoders.look import Look
from encoders.precision import pick_device
from encoders.products import BrokenImages, Product, iter_items, iter_queries
from encoders.queries import Queries, distinct_queries, image_digest, unknown_items, without_text
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.metrics import ranking_metrics
from moonrec.nearest import ranks_of_positives
from moonrec.progress import progress
from moonrec.report import Report
from moonrec.runs import Run, open_run
from moonrec.tables import ITEMS, SEARCHES, Table, open_table

CUTOFFS = (1, 5, 10, 50)
TASK = "image_to_item"


@dataclass(frozen=True)
class EvaluateConfig:
    """Options of `moonrec evaluate`, with the names of the flags."""

    searches: str
    out: str
    items: str | None = None
    encoder: str | None = None
    embeddings: str | None = None
    device: str = "auto"
    cache: str | None = None


@dataclass(frozen=True)
class _Catalogue:
    """What is searched: ids, and the vectors of the covered ones block by block."""

    ids: pa.ChunkedArray
    blocks: Callable[[], Iterable[np.ndarray]] | EmbeddingSet
    rows: int


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure image-search recall and write a run folder; returns what `metrics.json` holds.

    Raises:
        UserError: neither encoder nor embeddings, tables that do not fit, searches most of which name items
            that the catalogue lacks, or no query that can be asked.
    """
    if config.encoder is None and config.embeddings is None:
        raise UserError("name what is evaluated: --encoder RUN, --embeddings EMB, or both")
    if config.encoder is not None and config.embeddings is None and config.items is None:
        raise UserError("--encoder needs a catalogue to search: --items TABLE or --embeddings EMB")
    searches = open_table(config.searches, SEARCHES)
    items = open_table(config.items, ITEMS) if config.items else None
    inputs = {"searches": searches.fingerprint()} | ({"items": items.fingerprint()} if items else {})
    embeddings = EmbeddingSet.open(config.embeddings) if config.embeddings else None
    if embeddings is not None:
        inputs["embeddings"] = embeddings.fingerprint
    # An item of the catalogue may have no vector: it is then missed, and the catalogue is the right one.
    known = [items.read(["item_id"]).column("item_id")] if items else []
    unknown = unknown_items(searches, *known, *([embeddings.ids] if embeddings is not None else []))
    encoder = None
    if config.encoder is not None:
        encoder, ready = load_encoder(config.encoder, items)
        device = pick_device(config.device)
        cache = cache_folder(config.cache)
        preparer, look = encoder.preparer(cache, device), Look(encoder, device, cache)
        if not ready:
            if items is None:
                raise UserError("an untrained encoder is fitted to a catalogue first: name it with --items")
            products = look(items, iter_items(items))
            encoder.calibrate(preparer.table(progress(products, "catalogue features")))
            preparer.broken = BrokenImages()
        inputs["encoder"] = encoder.fingerprint()
        encoder = encoder.to(device)
    with open_run(Path(config.out), "evaluate", asdict(config), inputs, seed=0) as run:
        broken: dict[str, object] = {"count": 0, "examples": []}
        if encoder is None:
            assert embeddings is not None
            catalogue = _catalogue_of(embeddings)
            queries, vectors_QE = _item_queries(searches, embeddings)
        else:
            catalogue = _catalogue_of(embeddings) if embeddings else _encoded(items, encoder, preparer, look)
            if embeddings is not None:
                _check_same_encoder(embeddings, encoder)
            queries, vectors_QE = _photo_queries(searches, catalogue, encoder, preparer, look)
            broken = preparer.broken.to_dict()
        ranks = ranks_of_positives(
            vectors_QE, catalogue.blocks, (queries.query_P, queries.item_P), queries.own_item_Q
        )
        metrics: dict[str, Any] = {
            "retrieval": {TASK: ranking_metrics(ranks, queries.query_P, queries.positives_Q, CUTOFFS)},
            "queries": len(vectors_QE),
            "catalogue": catalogue.rows,
            "positives": int(queries.positives_Q.sum()),
            "positives_in_catalogue": len(queries.item_P),
            "unknown_items": asdict(unknown) | {"examples": list(unknown.examples)},
            "broken_images": broken,
        }
        run.save_metrics(metrics)
        _write_report(run, metrics, asdict(config))
    return metrics


def _catalogue_of(embeddings: EmbeddingSet) -> _Catalogue:
    return _Catalogue(embeddings.ids, embeddings, len(embeddings))


def _encoded(items: Table | None, encoder: Encoder, preparer: Preparer, look: Look) -> _Catalogue:
    assert items is not None
    ids: list[str] = []
    blocks: list[np.ndarray] = []
    device = next(encoder.parameters()).device
    for keys, shard in progress(preparer.shards(look(items, iter_items(items))), "catalogue"):
        vectors, empty = encode(encoder, shard, device=device)
        ids += [key for key, nothing in zip(keys, empty, strict=True) if not nothing]
        blocks.append(vectors[~empty].astype(np.float16))
    return _Catalogue(pa.chunked_array([pa.array(ids, pa.string())]), lambda: iter(blocks), len(ids))


def _check_same_encoder(embeddings: EmbeddingSet, encoder: Encoder) -> None:
    if embeddings.metadata.get("encoder_fingerprint") != encoder.fingerprint():
        raise UserError(
            f"{embeddings.path}: was not made by this encoder (fingerprints differ), so its vectors cannot "
            "be compared with the encoder's queries; export it again, or name the encoder that made it"
        )


def _photo_queries(
    searches: Table, catalogue: _Catalogue, encoder: Encoder, preparer: Preparer, look: Look
) -> tuple[Queries, np.ndarray]:
    """Each row's photo alone through the encoder."""
    if "query_image" not in searches.column_names:
        raise UserError(f"{searches.path}: image search needs the column `query_image`, which is not there")
    device = next(encoder.parameters()).device
    digests: list[bytes] = []
    usable: list[np.ndarray] = []
    vectors: list[np.ndarray] = []

    def photos() -> Iterator[list[Product]]:
        for products in iter_queries(searches):
            alone = [without_text(product) for product in products]
            digests.extend(image_digest(product) for product in alone)
            yield alone

    for _, shard in progress(preparer.shards(look(searches, photos())), "query photos"):
        usable.append(shard.has_image())
        vectors.append(encode(encoder, shard, device=device)[0])
    shown = np.concatenate(usable)
    keys = [digest if ok else None for digest, ok in zip(digests, shown.tolist(), strict=True)]
    queries = distinct_queries(searches, catalogue.ids, keys)
    vectors_QE = np.concatenate(vectors)[queries.first_row_Q]
    if isinstance(catalogue.blocks, EmbeddingSet):
        vectors_QE = shortened(vectors_QE, catalogue.blocks.dimension)
    return queries, vectors_QE


def _item_queries(searches: Table, embeddings: EmbeddingSet) -> tuple[Queries, np.ndarray]:
    """Each row's query is the frozen vector of the item whose picture it is."""
    if "query_item_id" not in searches.column_names:
        raise UserError(
            f"{searches.path}: an embedding set alone cannot encode a photo; name its --encoder, "
            "or give the column `query_item_id`"
        )
    ids = searches.read(["query_item_id"]).column("query_item_id")
    rows = embeddings.rows(ids)
    keys = [str(row).encode() if row else None for row in rows.tolist()]
    queries = distinct_queries(searches, embeddings.ids, keys)
    return queries, embeddings.vectors(rows[queries.first_row_Q]).astype(np.float32)


def _write_report(run: Run, metrics: dict[str, Any], config: dict[str, Any]) -> None:
    report = Report(
        "moonrec evaluate", f"{metrics['queries']:,} queries against {metrics['catalogue']:,} products"
    )
    values = metrics["retrieval"][TASK]
    report.heading("Image search")
    report.table(
        [{"K": k, "hit rate": values[f"hit@{k}"], "recall": values[f"recall@{k}"]} for k in CUTOFFS],
        "hit rate: any positive in the top K; recall: |top K and positives| / min(K, |positives|)",
    )
    report.table([{"MRR": values["mrr"], "NDCG@10": values["ndcg@10"]}])
    missing = metrics["positives"] - metrics["positives_in_catalogue"]
    if missing:
        report.warning(
            f"{missing:,} of {metrics['positives']:,} positives have no vector that could be found and "
            "count as missed."
        )
    unknown = metrics["unknown_items"]
    if unknown["count"]:
        named = ", ".join(map(repr, unknown["examples"]))
        report.warning(
            f"{unknown['count']:,} of {unknown['rows']:,} searches name items that the catalogue lacks, "
            f"such as {named}."
        )
    report.text(f"Pictures that could not be used: {metrics['broken_images']['count']}.")
    if metrics["broken_images"]["examples"]:
        report.table(metrics["broken_images"]["examples"], "The first of them")
    report.heading("Configuration")
    report.table(
        [{"option": name, "value": str(value)} for name, value in config.items() if value is not None]
    )
    report.save(run.path / "report.html")
