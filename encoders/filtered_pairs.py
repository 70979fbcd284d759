"""Which pairs the sample filter weighted down in an epoch, for people to look at: `filtered.parquet`.

Shapes: A queries of one modality, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from encoders.pairs import PairSource
from encoders.training_data import Products
from moonrec.atomic import atomic_file
from moonrec.gathering import gather_sections

FILE = "filtered.parquet"


class FilteredPairs:
    """The weights that pairs had in an epoch."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def add(self, source: int, rows: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> None:
        """Note a batch.

        Args:
            source: number of the pairs' source.
            rows: per query modality the pairs' numbers (A,) within their source.
            weights: per query modality what they counted.
        """
        for rows_A, weights_A in zip(rows, weights, strict=True):
            self._parts.append(np.stack([np.full(len(rows_A), source), rows_A, weights_A], 1))

    def take(self, device: torch.device) -> np.ndarray:
        """What all processes noted since the last call, as rows (source, pair, mean weight) (P, 3)."""
        noted = np.concatenate([np.zeros((0, 3)), *self._parts])
        self._parts = []
        # Numbers of pairs are whole beyond what float32 holds.
        parts = gather_sections([torch.from_numpy(noted).to(device)])[0]
        every = torch.cat(parts).cpu().numpy()
        keys, place = np.unique(every[:, :2], axis=0, return_inverse=True)
        count = np.bincount(place, minlength=len(keys))
        weight = np.bincount(place, every[:, 2], minlength=len(keys)) / np.maximum(count, 1)
        return np.concatenate([keys, weight[:, None]], 1)


def write_filtered(
    folder: Path, weights: np.ndarray, sources: Sequence[PairSource], products: Products, epoch: int
) -> None:
    """Write the pairs that counted less than 1 in an epoch, the least believed first.

    Columns: `source`; `search` (the row of the searches table) or `query_item_id` (of a pair of events);
    `item_id`; `weight`; `epoch`.

    Args:
        folder: of the run.
        weights: of `FilteredPairs.take`.
        sources: of the round.
        products: the catalogue and the queries.
        epoch: whose weights these are.
    """
    kept = weights[weights[:, 2] < 1]
    kept = kept[np.argsort(kept[:, 2], kind="stable")]
    number, row = kept[:, 0].astype(np.int64), kept[:, 1].astype(np.int64)
    anchor, positive = np.zeros(len(kept), np.int64), np.zeros(len(kept), np.int64)
    for place, source in enumerate(sources):
        here = number == place
        anchor[here] = source.training.anchor[row[here]]
        positive[here] = source.training.positive[row[here]]
    ids, items = pa.array(products.item_ids, pa.string()), len(products.item_ids)
    table = pa.table(
        {
            "source": pa.array([sources[n].name for n in number.tolist()], pa.string()),
            "search": pa.array(anchor - items, mask=anchor < items),
            "query_item_id": ids.take(pa.array(anchor, mask=anchor >= items)),
            "item_id": ids.take(pa.array(positive)),
            "weight": pa.array(kept[:, 2]),
            "epoch": pa.array(np.full(len(kept), epoch)),
        }
    )
    with atomic_file(folder / FILE) as temporary:
        pq.write_table(table, temporary)
