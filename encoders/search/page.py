"""The picture page of one search: the query, and what was found."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from encoders.evaluation.tiles import label_of
from encoders.products import Product
from moonrec.images import BrokenImage, decode_image
from moonrec.report import Report, Tile, add_provenance

# Twice what the page shows of a side: sharp on a phone, too.
_SIDE, _QUALITY = 240, 75
_BOX, _BOX_EDGE = "#d55e00", "white"


def search_page(
    query: Product,
    rows: Sequence[Mapping[str, Any]],
    products: Mapping[str, Product] | None,
    *,
    subtitle: str,
    notes: Sequence[str],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Report:
    """The page of a search.

    Args:
        query: with its core region, if one was looked at.
        rows: the results, of `result_rows`.
        products: the items found, by id; None where no catalogue was given.
        subtitle: what was searched.
        notes: what a reader must not miss.
        config: the options.
        inputs: a fingerprint per input.
    """
    report = Report("moonrec search", subtitle)
    for note in notes:
        report.warning(note)
    results = [_result_tile(row, (products or {}).get(row["item_id"])) for row in rows]
    report.strip(_query_tile(query), results, "The query, then what is nearest to it, each with its cosine.")
    with report.details("As a table"):
        report.table(rows)
    add_provenance(report, config, inputs)
    return report


def _query_tile(query: Product) -> Tile:
    note = "" if query.region is None else "the box is its core region"
    return Tile(_thumbnail(query), label_of(query) or "photo", note)


def _result_tile(row: Mapping[str, Any], product: Product | None) -> Tile:
    shown = Product(row["item_id"], None, ()) if product is None else product
    return Tile(_thumbnail(shown), label_of(shown) or row["item_id"], f"{row['score']:.3f}")


def _thumbnail(product: Product) -> bytes | None:
    """A JPEG file of the picture, with the box of its core region; None where there is no usable one."""
    if product.image is None:
        return None
    try:
        picture = decode_image(product.image, draft_size=_SIDE)
    except BrokenImage:
        return None
    picture.thumbnail((_SIDE, _SIDE))
    if product.region is not None:
        _draw_box(picture, product.region)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _draw_box(picture: Image.Image, region: tuple[float, float, float, float]) -> None:
    sides = (picture.width - 1, picture.height - 1) * 2
    x0, y0, x1, y1 = (round(share * side) for share, side in zip(region, sides, strict=True))
    draw = ImageDraw.Draw(picture)
    # Two colours, so that one of them is seen on any photo.
    draw.rectangle((x0, y0, x1, y1), outline=_BOX_EDGE, width=4)
    draw.rectangle((x0 + 1, y0 + 1, max(x0 + 1, x1 - 1), max(y0 + 1, y1 - 1)), outline=_BOX, width=2)
