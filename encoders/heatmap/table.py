"""The numbers beside the drawings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from encoders.heatmap.attribution import Attribution
from encoders.heatmap.draw import ASPECT_NAMES, Drawn
from encoders.heatmap.occlusion import mass_inside
from encoders.products import Aspect, Product
from encoders.regions.boxes import area


def item_row(product: Product, name: str, one: Attribution) -> dict[str, Any]:
    """One product under one encoder: shares of the aspects, and the heat inside the core region.

    A missing aspect, or a product without picture, region or heat, gives None. Where a match is explained,
    the cosine with the query stands beside them.
    """
    inside = None
    if product.region is not None and one.heat_GG is not None and one.heat_GG.any():
        inside = mass_inside(one.heat_GG, product.region)
    return {
        "item_id": product.key,
        "encoder": name,
        **({} if one.cosine is None else {"cosine": one.cosine}),
        **{label: one.aspects.get(aspect) for aspect, label in ASPECT_NAMES.items()},
        "words": sum(share for aspect, share in one.aspects.items() if aspect is not Aspect.IMAGE),
        "heat_in_region": inside,
        "region_area": None if inside is None else area(product.region),
    }


def mean_rows(drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """One row per encoder: the mean of every number over the products that have it."""
    rows = [item_row(one.product, name, it) for one in drawn for name, it in one.by_encoder.items()]
    names = list(dict.fromkeys(row["encoder"] for row in rows))
    return [_mean(name, [row for row in rows if row["encoder"] == name]) for name in names]


def _mean(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    columns = [column for column in rows[0] if column not in ("item_id", "encoder")]
    values = {column: [row[column] for row in rows if row[column] is not None] for column in columns}
    return {"encoder": name} | {c: sum(v) / len(v) if v else None for c, v in values.items()}
