"""A small catalogue, a trained encoder's embedding set of it, and queries, for the tests of search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoder_helpers import CPU, busy_encoder, picture, write_table

from encoders.compact import CompactConfig, CompactEncoder
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.export import ExportConfig, export
from encoders.products import EVERYTHING, iter_queries
from encoders.search.search import SearchConfig
from moonrec.embedding_set import EmbeddingSet
from moonrec.tables import SEARCHES, open_table

NAMES = ("red dress", "blue shirt", "green lamp", "small mug", "oak table", "wool hat", "steel bottle")
COMPUTE: dict[str, Any] = {"device": "cpu", "cache": ""}


@dataclass(frozen=True)
class SearchCase:
    """Where the encoder, its set, the catalogue and some query photos are."""

    folder: Path
    encoder: str
    embeddings: str
    items: str
    photos: tuple[str, ...]

    def config(self, **options: Any) -> SearchConfig:
        """Options of a search in the set."""
        return replace(SearchConfig(self.encoder, self.embeddings, **COMPUTE), **options)

    def ranking(self, queries: list[dict[str, Any]], embeddings: str | None = None) -> list[list[str]]:
        """All ids, best first, for queries that are encoded as evaluation encodes a table of searches."""
        found = EmbeddingSet.open(embeddings or self.embeddings)
        path = write_table(self.folder / "asked.parquet", [{"item_id": "1"} | query for query in queries])
        searches = open_table(path, SEARCHES)
        worker = WorkingEncoder.start(self.encoder, None, CPU, None).at(found.dimension)
        shards = worker.shards(iter_queries(searches), searches, "queries")
        vectors_QD = np.concatenate([worker.vectors(shard, EVERYTHING)[0] for shard in shards])
        scores_QN = vectors_QD @ found.matrix().astype(np.float32).T
        ids = np.array(found.ids.to_pylist())
        return ids[np.argsort(-scores_QN, axis=1, kind="stable")].tolist()


def make_case(folder: Path, *, regions: bool) -> SearchCase:
    """Twenty-one items, some without a picture, and an encoder with random weights."""
    rows = [
        {
            "item_id": f"{place:03}",
            "title": f"{NAMES[place % 7]} {place}",
            "category": "Home > Things",
            "image": picture(place) if place % 5 else None,
        }
        for place in range(21)
    ]
    items = write_table(folder / "items.parquet", rows)
    encoder = region_encoder() if regions else busy_encoder()
    encoder.save_pretrained(folder / "encoder")
    case = SearchCase(
        folder, str(folder / "encoder"), str(folder / "set"), str(items), tuple(_photos(folder, 3))
    )
    export(ExportConfig(case.encoder, case.items, case.embeddings, **COMPUTE))
    return case


def region_encoder() -> CompactEncoder:
    """An encoder that looks at core regions, with random weights."""
    torch.manual_seed(0)
    encoder = CompactEncoder(CompactConfig(dims=(32, 16), width=32, regions=True))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.3)
    return encoder.eval()


def _photos(folder: Path, count: int) -> list[str]:
    paths = [folder / f"photo{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(100 + number, size=160))
    return [str(path) for path in paths]
