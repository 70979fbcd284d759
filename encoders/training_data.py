"""Everything that training reads: catalogue, queries and variants in one table, and who is who's SKU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from encoders.cleaning import query_codes
from encoders.encoder import Encoder, ProductTable
from encoders.hard_negatives import text_codes
from encoders.look import Look
from encoders.pairs import PairSource, product_codes
from encoders.products import BrokenImages, iter_items, iter_queries
from encoders.variants import VariantReader, Variants
from moonrec.errors import UserError
from moonrec.progress import progress
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, Table, check_same_clock, open_table

_SPECS = {
    "items": ITEMS,
    "searches": SEARCHES,
    "events": EVENTS,
    "holdout": IMPRESSIONS,
    "impressions": IMPRESSIONS,
}


def open_tables(**paths: str | None) -> dict[str, Table]:
    """The tables that are named; items, searches, events, holdout, impressions.

    Raises:
        UserError: a table that is not as it must be, or times that are not on one clock.
    """
    tables = {name: open_table(path, _SPECS[name]) for name, path in paths.items() if path is not None}
    check_same_clock([table for table in tables.values() if "timestamp" in table.column_names])
    return tables


@dataclass(frozen=True)
class Products:
    """The catalogue, behind it the queries, and behind these the variants of items.

    Attributes:
        table: all of them, as the encoder reads them; M catalogue rows come first.
        item_ids: of the catalogue.
        product_M: one number per catalogue row, equal for the SKUs of one product.
        text_M: one number per catalogue row, equal for identical titles (-1: no title).
        query_R: one number per row of the table, equal for what asks for the same: equal queries, and SKUs;
            a variant asks for what its item asks for.
        variants: which rows show an item in another way. Pairs hold the rows of items themselves.
        broken: pictures that could not be used.
    """

    table: ProductTable
    item_ids: list[str]
    product_M: np.ndarray
    text_M: np.ndarray
    query_R: np.ndarray
    variants: Variants
    broken: BrokenImages

    def name(self, row: int) -> str:
        """What to call a row of the table in a message."""
        items = len(self.item_ids)
        if row >= self.variants.first:
            return f"item {self.item_ids[self.variants.owner_V[row - self.variants.first]]!r}, augmented"
        return f"item {self.item_ids[row]!r}" if row < items else f"search row {row - items}"

    def usable(self) -> np.ndarray:
        """Which rows of catalogue and queries show anything at all."""
        return (self.table.has_image() | self.table.has_text())[: self.variants.first]


def load_products(
    items: Table,
    searches: Table | None,
    encoder: Encoder,
    *,
    look: Look,
    device: torch.device,
    cache: Path | None,
    folder: Path,
    augmented: bool = False,
) -> Products:
    """Prepare the catalogue, the queries and the variants of items for an encoder.

    Args:
        items: the catalogue.
        searches: a table of queries, if there is one.
        encoder: whose tables are made.
        look: finds the core regions.
        device: where features are computed.
        cache: folder of the feature cache, or None.
        folder: for what is too large for memory while training runs.
        augmented: whether variants of items are read, where the catalogue has any (`title_enriched`,
            `images_augmented`). Catalogue and queries are the same bits with and without.

    Raises:
        UserError: the catalogue is empty, or shows nothing at all.
    """
    preparer = encoder.training_preparer(cache, device, folder)
    sources = [progress(look(items, iter_items(items)), "catalogue")]
    if searches is not None:
        sources.append(progress(look(searches, iter_queries(searches)), "queries"))
    reader = VariantReader(items) if augmented and VariantReader.reads(items) else None
    if reader is not None:
        sources.append(progress(reader.batches(look), "variants"))
    table = preparer.table(*sources)
    item_ids = items.read(["item_id"]).column("item_id").to_pylist()
    product_M = product_codes(items, item_ids)
    asked = query_codes(() if searches is None else iter_queries(searches), product_M)
    variants = Variants.none(len(item_ids), len(asked))
    if reader is not None:
        variants = reader.variants(table.has_image(), table.has_text(), len(item_ids))
        reader.count_once(preparer.broken, table.has_image())
    products = Products(
        table,
        item_ids,
        product_M,
        text_codes(items),
        np.concatenate([asked, product_M[variants.owner_V]]),
        variants,
        preparer.broken,
    )
    if not products.usable()[: len(item_ids)].any():
        raise UserError(f"{items.path}: no product shows anything: no usable picture and no text")
    return products


def calibration_rows(sources: Iterable[PairSource], items: int) -> np.ndarray:
    """The catalogue and the queries that became pairs: what a holdout removed is not looked at."""
    anchors = [part.anchor for source in sources for part in (source.training, source.validation)]
    return np.union1d(np.arange(items), np.concatenate(anchors)) if anchors else np.arange(items)
