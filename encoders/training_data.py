"""Everything that post-training reads: features of catalogue and queries, pairs, and who is who's SKU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from encoders.compact import CompactEncoder
from encoders.features import FeatureTable
from encoders.loading import featurizer_for
from encoders.pairs import PairSource, pairs_from_events, pairs_from_searches, product_codes
from encoders.products import BrokenImages, iter_items, iter_queries
from encoders.raw_batches import RawTable
from moonrec.progress import progress
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, Table, check_same_clock, open_table

if TYPE_CHECKING:
    from encoders.posttrain import PosttrainConfig


@dataclass(frozen=True)
class TrainingData:
    """Everything the loop reads; feature rows are the catalogue's, then the queries'."""

    features: FeatureTable
    raw: RawTable | None
    sources: list[PairSource]
    product_of_item: np.ndarray
    broken: BrokenImages

    def calibration_rows(self) -> np.ndarray:
        """The catalogue and the queries that became pairs: what a holdout removed is not looked at."""
        items = len(self.product_of_item)
        anchors = [part.anchor for source in self.sources for part in (source.training, source.validation)]
        return np.union1d(np.arange(items), np.concatenate(anchors))


def open_tables(config: PosttrainConfig) -> dict[str, Table]:
    """The tables that the options name."""
    tables = {"items": open_table(config.items, ITEMS)}
    if config.searches is not None:
        tables["searches"] = open_table(config.searches, SEARCHES)
    if config.events is not None:
        tables["events"] = open_table(config.events, EVENTS)
    if config.holdout is not None:
        tables["holdout"] = open_table(config.holdout, IMPRESSIONS)
    check_same_clock([table for table in tables.values() if "timestamp" in table.column_names])
    return tables


def load_training_data(
    config: PosttrainConfig,
    tables: dict[str, Table],
    encoder: CompactEncoder,
    device: torch.device,
    pixels: Path,
) -> TrainingData:
    """Featurize catalogue and queries, and pair them up.

    Args:
        config: the options.
        tables: of `open_tables`.
        encoder: whose towers make the features.
        device: where they run.
        pixels: file for decoded pictures, written only when the towers are to be trained.

    Raises:
        UserError: a table without anything to learn from.
    """
    items, searches, holdout = tables["items"], tables.get("searches"), tables.get("holdout")
    featurizer = featurizer_for(encoder, config.cache, device)
    features = featurizer.table(progress(iter_items(items), "catalogue features"))
    item_ids = items.read(["item_id"]).column("item_id").to_pylist()
    sources = []
    if searches is not None:
        queries = featurizer.table(progress(iter_queries(searches), "query features"))
        usable = queries.has_image() | (queries.text_lengths() > 0)
        features = features + queries
        sources.append(pairs_from_searches(searches, item_ids, usable, config.seed, holdout))
    if (events := tables.get("events")) is not None:
        sources.append(
            pairs_from_events(
                events,
                item_ids,
                event_types=config.event_types,
                holdout=holdout,
                window=config.window,
                max_gap_days=config.max_gap_days,
            )
        )
    raw = None
    if config.train_towers:
        products = iter_items(items)
        everything = [products] if searches is None else [products, iter_queries(searches)]
        batches = (batch for table in everything for batch in table)
        raw = RawTable.build(batches, len(features), pixels, BrokenImages())
    return TrainingData(features, raw, sources, product_codes(items, item_ids), featurizer.broken)
