"""`moonrec regions`: find and keep the core regions of a catalogue and of query photos, and show some."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from encoders.loading import COMPACT, cache_folder, load_encoder
from encoders.precision import pick_device
from encoders.products import Product, iter_items, iter_queries
from encoders.regions.find import Regions
from encoders.regions.open import ground_regions, open_regions
from encoders.regions.sheet import write_sheet
from moonrec.errors import UserError
from moonrec.images import BrokenImage, decode_image
from moonrec.output_place import refuse_inside_inputs
from moonrec.progress import progress
from moonrec.table_spec import Kind
from moonrec.tables import ITEMS, SEARCHES, Table, open_table

_CHECK_SIZE = 32


@dataclass(frozen=True)
class RegionsConfig:
    """Options of `moonrec regions`, with the names of the flags."""

    items: str
    searches: str | None = None
    encoder: str = COMPACT
    out: str | None = None
    count: int = 24
    seed: int = 0
    device: str = "auto"
    cache: str | None = None


def find_regions(config: RegionsConfig) -> dict[str, Any]:
    """Find the core region of every picture of the tables, keep them, and draw a sample; returns counts.

    Raises:
        UserError: a table without pictures, of which none is usable, or an output among the inputs.
    """
    tables = {"items": open_table(config.items, ITEMS)}
    if config.searches is not None:
        tables["searches"] = open_table(config.searches, SEARCHES)
    for table in tables.values():
        _refuse_without_pictures(table)
    _refuse_output(config)
    open_regions_of = _opener(config, tables["items"])
    sample = _Sample(config.count, config.seed)
    results: dict[str, Any] = {}
    for name, table in tables.items():
        regions = open_regions_of(table)
        batches = iter_items(table) if name == "items" else iter_queries(table)
        products = chain.from_iterable(regions.attach(batches, titled=name == "items"))
        for product in progress(products, f"core regions of {name}", table.count_rows()):
            sample.offer(product)
        if not regions.counts.pictures:
            raise UserError(f"{table.path}: none of its pictures can be used; `moonrec validate` says why")
        results[name] = {**regions.counts.to_dict(), "table": regions.path or "not kept"}
    if config.out is not None:
        write_sheet(config.out, sample.products())
        results["sheet"] = config.out
    return results


def _opener(config: RegionsConfig, items: Table) -> Callable[[Table], Regions]:
    """What opens the regions of a table: by the image tower, or by asking the named MLLM."""
    device, cache = pick_device(config.device), cache_folder(config.cache)
    if config.encoder != COMPACT:
        from encoders.mllm.encoder import MllmEncoder

        encoder, _ = load_encoder(config.encoder, items)
        if isinstance(encoder, MllmEncoder):
            model = encoder.to(device)
            return lambda table: ground_regions(table.path, model, cache)
    return lambda table: open_regions(table.path, device, cache)


def _refuse_without_pictures(table: Table) -> None:
    names = [column.name for column in table.spec.columns if column.kind in (Kind.IMAGE, Kind.IMAGES)]
    if not set(names) & set(table.column_names):
        raise UserError(f"{table.path}: has no pictures; core regions need a column {' or '.join(names)}")


def _refuse_output(config: RegionsConfig) -> None:
    if config.out is None:
        return
    refuse_inside_inputs(config.out, [("--items", config.items), ("--searches", config.searches)])
    if Path(config.out).is_dir():
        raise UserError(f"-o {config.out}: is a folder; name the PNG file to write")


class _Sample:
    """A random sample of the products that pass, however many there will be; each is as likely."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._random = np.random.default_rng(seed)
        # The smallest draws stay; the order in which products came settles equal ones.
        self._kept: list[tuple[float, int, Product]] = []
        self._offered = 0

    def offer(self, product: Product) -> None:
        """Let one product pass; only those with a usable picture are drawn."""
        if product.image is None:
            return
        self._offered += 1
        entry = (-float(self._random.random()), -self._offered, product)
        full = len(self._kept) == self._count
        if full and entry[:2] < self._kept[0][:2]:
            return
        try:
            decode_image(product.image, draft_size=_CHECK_SIZE)
        except BrokenImage:
            return
        if full:
            heapq.heapreplace(self._kept, entry)
        else:
            heapq.heappush(self._kept, entry)

    def products(self) -> list[Product]:
        """The sample in the order in which its products came."""
        return [product for _, _, product in sorted(self._kept, key=lambda entry: -entry[1])]
