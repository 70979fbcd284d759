"""A small market for the tests of `moonrec exchange-rate`, and embedding sets as its versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ctr_helpers import planted_taste

from moonrec.cli.exchange_study import ExchangeConfig
from moonrec.embedding_set import EmbeddingSetWriter

NOISES = (0.0, 0.3, 0.6, 1.0, 2.0)
ITEMS = 240


def planted_study(folder: Path) -> ExchangeConfig:
    """Users like a style that only vectors tell; a version is these with more or less noise."""
    market = planted_taste(users=150, items=ITEMS, rows=2_800)
    paths = market.save(folder / "market")
    ids, random = market.item_ids, np.random.default_rng(0)
    half = [f"i{number}" for number in range(len(ids))]
    pq.write_table(
        pa.table(
            {
                "item_id": half,
                "title": [f"thing {name}" for name in half],
                "category": ["shop > red" if n % 2 else "shop > blue" for n in range(len(half))],
            }
        ),
        folder / "items.parquet",
    )
    nearest = (market.vectors @ market.vectors.T - 9 * np.eye(len(ids))).argmax(axis=1)
    asked = {"query_text": pa.nulls(len(ids), pa.string()), "query_item_id": half}
    pq.write_table(pa.table({**asked, "item_id": [half[n] for n in nearest]}), folder / "searches.parquet")
    versions = []
    for noise in NOISES:
        write_set(folder / f"noise{noise}", ids, blurred(market.vectors, noise, random))
        versions.append(f"noise{noise}={folder / f'noise{noise}'}")
    return ExchangeConfig(
        items=str(folder / "items.parquet"),
        searches=str(folder / "searches.parquet"),
        impressions=str(paths["impressions"]),
        test=str(paths["test"]),
        events=str(paths["events"]),
        version=tuple(versions),
        compare=("noise2.0:noise0.0",),
        seeds=2,
        out=str(folder / "unused"),
    )


def write_set(folder: Path, ids: Sequence[str], vectors: np.ndarray) -> Path:
    with EmbeddingSetWriter(folder, vectors.shape[1], {}) as writer:
        writer.write(pa.array(ids), vectors)
    return folder


def blurred(vectors: np.ndarray, noise: float, random: np.random.Generator) -> np.ndarray:
    drawn = random.normal(size=vectors.shape)
    found = vectors + noise * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
