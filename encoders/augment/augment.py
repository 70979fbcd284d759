"""`moonrec augment`: a training catalogue with richer titles and more pictures of its items.

The catalogue is read in parts; what is made for a part is written to `OUT.partial`, and when all parts are
there the table is written in one pass. Memory does not grow with the catalogue, except for the ids.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from encoders.augment.augmented_parts import IMAGE_COLUMNS, TITLE_COLUMNS, AugmentedItem, AugmentedParts
from encoders.augment.checks import check_options
from encoders.augment.counts import Counts
from encoders.augment.judged_images import NO_IMAGES, ImageMaker
from encoders.augment.models import LOCAL, OWN, RULES, Models
from encoders.augment.sheet import sheet_rows, shown_of, write_sheet
from encoders.augment.title import NO_TITLE, TitleEnricher
from encoders.augment.written_table import carry_boxes, write_table
from encoders.catalogue_parts import PartReader
from encoders.loading import COMPACT, cache_folder
from encoders.precision import has_fast_bf16, pick_device
from encoders.products import Product
from encoders.regions import open_regions
from moonrec.progress import progress
from moonrec.runs import identity_of
from moonrec.tables import ITEMS, open_table

# A kill costs one part, which should be no more than a minute: titles by rules take next to nothing, local
# pictures and their judge tenths of a second per item, a model seconds.
_TITLE_PART_ROWS, _PICTURE_PART_ROWS, _MODEL_PART_ROWS = 1024, 128, 64
# They are in the identity in another form, or decide only where something lies.
_INDECISIVE = ("items", "out", "sheet", "device", "cache")


@dataclass(frozen=True)
class AugmentConfig:
    """Options of `moonrec augment`, with the names of the flags.

    Attributes:
        items: the training catalogue.
        out: the Parquet file to write.
        titles: `rules`, `none` (leave what there is), or an MLLM: a checkpoint or a run.
        images: `local`, `none` (leave what there is), or an image-editing pipeline of diffusers.
        variants: pictures to make per item.
        encoder: who judges whether a picture shows its item.
        min_agreement: the share of other items' pictures that a picture must beat, in [0, 1].
        sheet: a PNG file to draw some items on.
        seed: of everything drawn.
        device: where to compute.
        cache: folder for core regions that cannot be kept beside the table (None: the default one, "": none).
    """

    items: str
    out: str
    titles: str = RULES
    images: str = LOCAL
    variants: int = 3
    encoder: str = COMPACT
    min_agreement: float = 0.95
    sheet: str | None = None
    seed: int = 0
    device: str = "auto"
    cache: str | None = None


def augment(config: AugmentConfig) -> dict[str, Any]:
    """Write an items table with `title_enriched` and `images_augmented`, each with its source.

    Only training reads these columns. A title or picture that cannot be made or does not hold is left out,
    with the reason in the source column or the counts; all other columns are as before, rows in their order.

    Parts that a killed run left are trusted when options, tables, models and versions are the same.

    Returns:
        Counts of titles and pictures, made and not made, how pictures were judged, and what it cost.

    Raises:
        UserError: an option out of range, an output among the inputs or that cannot be written, no such
            model, duplicate ids.
    """
    started = time.perf_counter()
    check_options(config)
    job = _Job(config)
    with job.parts.open(job.identity()):
        missing = job.parts.missing()
        job.make(missing)
        results = job.finish()
    seconds = time.perf_counter() - started
    made = sum(map(len, missing))
    effort = {"seconds": seconds, "items_per_second": made / seconds, "resumed": results["items"] - made}
    return results | effort


class _Job:
    """One run: the catalogue, who makes titles and pictures, and what is made so far."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self.items = open_table(config.items, ITEMS)
        next(self.items.batches(["item_id"]))  # looks for duplicates before anything is computed
        self.device, self.cache = pick_device(config.device), cache_folder(config.cache)
        models = Models(self.items, self.device)
        self.titles = models.titles(config.titles)
        self.augmenter = models.images(config.images)
        self.agreement = None
        if self.augmenter is not None:
            self.agreement = models.agreement(config.encoder, config.min_agreement)
        self.parts = AugmentedParts(Path(config.out), self.items.count_rows(), _part_rows(config))

    def identity(self) -> str:
        """A digest of all that decides what a part holds."""
        options = {key: value for key, value in asdict(self.config).items() if key not in _INDECISIVE}
        decisive = {
            "sheet": self.config.sheet is not None,
            "parts": len(self.parts.parts),
            "arithmetic": f"{self.device.type} {'bf16' if has_fast_bf16(self.device) else 'fp32'}",
        }
        inputs = {"items": self.items.fingerprint()}
        if self.titles is not None:
            inputs["titles"] = self.titles.fingerprint()
        if self.agreement is not None:
            inputs["encoder"] = self.agreement.fingerprint()
        if self.augmenter is not None:
            inputs["images"] = self.augmenter.fingerprint()
        return identity_of("augment", options | decisive, inputs)

    def make(self, parts: list[range]) -> None:
        """Make these parts."""
        on_sheet = sheet_rows(self.items.count_rows(), self.config.seed) if self.config.sheet else frozenset()
        maker = None
        if self.augmenter is not None and self.agreement is not None:
            maker = ImageMaker(self.augmenter, self.agreement, self.config.variants, self.config.seed)
        reader = PartReader(self.items, parts)
        with closing(self._located(reader.batches())) as batches:
            products = progress(reader.by_part(batches), "augment")
            for part, of_part in groupby(products, key=itemgetter(0)):
                made: list[AugmentedItem] = []
                counts = Counts()
                for _, batch in of_part:
                    rows = range(part.start + len(made), part.start + len(made) + len(batch))
                    shown = [row in on_sheet for row in rows]
                    made += _augmented(batch, self.titles, maker, shown, counts)
                self.parts.write(part, made, counts)

    def finish(self) -> dict[str, Any]:
        """Write the table, and the sheet, from the parts; returns counts."""
        counts = Counts()
        for number in range(len(self.parts.parts)):
            counts.add(self.parts.read(number)[1])
        results: dict[str, Any] = {"items": self.items.count_rows()}
        columns: dict[str, pa.DataType] = {}
        if self.titles is not None:
            columns |= TITLE_COLUMNS
            results["titles"] = counts.titles_to_dict()
        if self.agreement is not None:
            columns |= IMAGE_COLUMNS
            results["images"] = counts.images_to_dict() | {"agreement": self.agreement.to_dict()}
        write_table(self.items, self.parts, columns)
        carry_boxes(self.items.path, self.parts.out, self.cache)
        if self.config.sheet is not None:
            write_sheet(self.config.sheet, self.parts)
            results["sheet"] = self.config.sheet
        return results

    def _located(self, batches: Iterator[list[Product]]) -> Generator[list[Product], None, None]:
        """The products with their core regions, where pictures are made of them."""
        if self.augmenter is None:
            yield from batches
            return
        yield from open_regions(self.items.path, self.device, self.cache).attach(batches)


def _part_rows(config: AugmentConfig) -> int:
    if config.titles not in OWN or config.images not in OWN:
        return _MODEL_PART_ROWS
    return _PICTURE_PART_ROWS if config.images == LOCAL else _TITLE_PART_ROWS


def _augmented(
    products: list[Product],
    enricher: TitleEnricher | None,
    maker: ImageMaker | None,
    shown: list[bool],
    counts: Counts,
) -> list[AugmentedItem]:
    titles = [NO_TITLE] * len(products)
    if enricher is not None:
        titles = enricher.enrich(products)
        counts.titles.update(title.source for title in titles)
    pictures = [NO_IMAGES] * len(products)
    if maker is not None:
        pictures = maker.make(products, counts)
    return [
        AugmentedItem(
            title=title.title,
            title_source=title.source,
            images=[(one.data, one.source) for one in images.made if one.stands],
            shown=shown_of(product, title, images) if is_shown else None,
        )
        for product, title, images, is_shown in zip(products, titles, pictures, shown, strict=True)
    ]
