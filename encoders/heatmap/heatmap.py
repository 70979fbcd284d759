"""`moonrec heatmap`: draw what the vectors of some products come from, for one encoder or two."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from encoders.encoder import Encoder
from encoders.heatmap.attribution import attribute, vector_of
from encoders.heatmap.choose import chosen_products
from encoders.heatmap.draw import Drawn, any_letters, product_figure
from encoders.heatmap.table import item_row
from encoders.loading import COMPACT, cache_folder, load_encoder
from encoders.look import Look
from encoders.precision import pick_device
from encoders.products import Aspect, Product, iter_items
from encoders.regions.open import open_regions
from moonrec.atomic import atomic_file
from moonrec.errors import UserError
from moonrec.images import MAX_IMAGE_BYTES, BrokenImage, decode_image
from moonrec.output_place import folder_or_none, refuse_inside_inputs
from moonrec.progress import progress
from moonrec.report import Report
from moonrec.tables import ITEMS, Table, open_table

_DPI = 110
_MOST_IN_PNG = 24


@dataclass(frozen=True)
class HeatmapConfig:
    """Options of `moonrec heatmap`, with the names of the flags."""

    encoder: str
    items: str
    item_id: tuple[str, ...]
    out: str
    against: str | None = None
    query_text: str | None = None
    query_image: str | None = None
    device: str = "auto"
    cache: str | None = None


def heatmap(config: HeatmapConfig) -> dict[str, Any]:
    """Draw the products into a PNG or an HTML page; returns the numbers.

    Raises:
        UserError: an item or encoder that is not there, a product or query that shows nothing, or an output
            that is none.
    """
    _check(config)
    device, cache = pick_device(config.device), cache_folder(config.cache)
    items = open_table(config.items, ITEMS)
    products = chosen_products(items, config.item_id)
    query = _query(config)
    encoders = {
        name: _ready_encoder(option, path, items, device, cache)
        for name, (option, path) in _encoder_names(config).items()
    }
    seeing = next((one for one in encoders.values() if one.config.regions), None)
    if seeing is not None:
        products = [one for batch in Look(seeing, device, cache)(items, [products]) for one in batch]
        if query is not None and query.image is not None:
            regions = open_regions(items.path, device, cache, write=False)
            query = next(one for batch in regions.attach([[query]], titled=False) for one in batch)
    drawn = _attributed(encoders, products, query, device)
    rows = [item_row(one.product, name, it) for one in drawn for name, it in one.by_encoder.items()]
    with any_letters():
        _write(config, drawn, rows, query)
    return {"out": config.out, "items": rows, "words": _word_rows(drawn)}


def _check(config: HeatmapConfig) -> None:
    suffix = Path(config.out).suffix.lower()
    if suffix not in (".png", ".html"):
        raise UserError(f"-o {config.out}: expected a name that ends in .png or .html")
    # Unlike Path.is_dir, this does not raise where a name is too long: the writer says so.
    if os.path.isdir(config.out):
        raise UserError(f"-o {config.out}: is a folder; name the file to write")
    refuse_inside_inputs(
        config.out,
        [
            ("--items", config.items),
            ("--query-image", config.query_image),
            ("--encoder", folder_or_none(config.encoder)),
            ("--against", folder_or_none(config.against)),
        ],
    )
    if suffix == ".png" and len(set(config.item_id)) > _MOST_IN_PNG:
        raise UserError(
            f"-o {config.out}: {len(set(config.item_id))} products, more than the {_MOST_IN_PNG} of a "
            "picture; name an .html file, or fewer products"
        )


def _encoder_names(config: HeatmapConfig) -> dict[str, tuple[str, str]]:
    """What to call the encoders in drawings; which option named them, and where they are."""
    paths = [config.encoder] + ([] if config.against is None else [config.against])
    if len(set(paths)) < len(paths):
        raise UserError(f"--against {config.against}: is --encoder itself; name another, or leave it out")
    short = ["compact (untrained)" if path == COMPACT else Path(path).name for path in paths]
    named = zip(("--encoder", "--against"), paths, strict=False)
    return dict(zip(short if len(set(short)) == len(short) else paths, named, strict=True))


def _ready_encoder(option: str, path: str, items: Table, device: torch.device, cache: Path | None) -> Encoder:
    """The encoder on its device; an untrained one is fitted to the catalogue, as by `moonrec export`."""
    try:
        encoder, ready = load_encoder(path, items)
    except UserError as error:
        raise UserError(f"{option} {error}") from error
    encoder = encoder.to(device)
    if not ready:
        batches = Look(encoder, device, cache)(items, iter_items(items))
        table = encoder.preparer(cache, device).table(progress(batches, "catalogue features"))
        encoder.calibrate(table)
    return encoder


def _query(config: HeatmapConfig) -> Product | None:
    """The query whose match is to be explained, if one is given."""
    if config.query_text is None and config.query_image is None:
        return None
    text = " ".join((config.query_text or "").split())
    if config.query_text is not None and not text:
        raise UserError("--query-text: is empty; give some words, or leave it out")
    picture = None if config.query_image is None else _picture(config.query_image)
    return Product("query", picture, ((Aspect.TITLE, text),) if text else ())


def _picture(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
        if len(data) > MAX_IMAGE_BYTES:
            raise BrokenImage(f"larger than {MAX_IMAGE_BYTES // 2**20} MiB")
        decode_image(data, draft_size=_DPI)
    except OSError as error:
        raise UserError(f"--query-image {path}: cannot be read ({error.strerror})") from error
    except BrokenImage as error:
        raise UserError(f"--query-image {path}: {error}; give a JPEG, PNG or WebP file") from error
    return data


def _attributed(
    encoders: dict[str, Encoder],
    products: Sequence[Product],
    query: Product | None,
    device: torch.device,
) -> list[Drawn]:
    found = {}
    # Features of covered pictures serve the next encoder, and nobody after it.
    with TemporaryDirectory() as folder:
        for name, encoder in encoders.items():
            target_E = None if query is None else vector_of(encoder, query, device)
            parts = attribute(encoder, products, device, cache=Path(folder), target_E=target_E)
            found[name] = list(progress(parts, name, len(products)))
    drawn = []
    for place, product in enumerate(products):
        by_encoder = {name: parts[place] for name, parts in found.items()}
        one = next(iter(by_encoder.values()))
        if not one.aspects:
            reason = "no usable picture and no text" + (f" ({one.broken})" if one.broken else "")
            raise UserError(f"--item-id {product.key!r}: shows nothing: {reason}; name another item")
        if query is not None:
            by_encoder = {f"{name}, for the query": part for name, part in by_encoder.items()}
        drawn.append(Drawn(product, by_encoder))
    return drawn


def _write(
    config: HeatmapConfig, drawn: Sequence[Drawn], rows: list[dict[str, Any]], query: Product | None
) -> None:
    if Path(config.out).suffix.lower() == ".png":
        _write_png(config.out, drawn)
        return
    explained = "the vectors themselves" if query is None else "the match with a query"
    report = Report("moonrec heatmap", f"{len(drawn):,} products; explained: {explained}")
    for one in drawn:
        report.heading(one.product.key)
        report.figure(product_figure(one))
        report.table([row for row in rows if row["item_id"] == one.product.key])
        words = _word_rows([one])
        if words:
            report.table(words, "Each word's share of what leaving one out of the title changes")
    report.save(config.out)


def _write_png(path: str, drawn: Sequence[Drawn]) -> None:
    pictures = []
    for one in drawn:
        stream = io.BytesIO()
        product_figure(one).savefig(stream, format="png", dpi=_DPI)
        pictures.append(Image.open(stream).convert("RGB"))
    sheet = Image.new(
        "RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white"
    )
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")


def _word_rows(drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    return [
        {"item_id": one.product.key, "encoder": name, "word": word, "share": share}
        for one in drawn
        for name, part in one.by_encoder.items()
        for word, share in part.words
    ]
