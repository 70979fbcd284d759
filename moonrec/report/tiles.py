"""Small pictures with a label: a query, a product, a neighbour."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


@dataclass(frozen=True)
class Tile:
    """One small picture of a page.

    Attributes:
        image: the bytes of a small PNG or JPEG file; None: a grey box that holds the label.
        label: what it is.
        note: a second, quieter line, such as a similarity.
        hit: True is marked as a hit; False and None are plain.
    """

    image: bytes | None
    label: str
    note: str = ""
    hit: bool | None = None


def image_address(image: bytes) -> str:
    """A `data:` address that holds a PNG or JPEG file.

    Raises:
        ValueError: the bytes begin like neither.
    """
    for start, kind in _KINDS.items():
        if image.startswith(start):
            return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    raise ValueError("a picture of a report is the bytes of a PNG or JPEG file")


def shown(tile: Tile, rank: int | None = None) -> Mapping[str, object]:
    """What the page's template needs of a tile; `rank` is its place among results."""
    return {
        "address": None if tile.image is None else image_address(tile.image),
        "label": tile.label,
        "note": tile.note,
        "hit": tile.hit is True,
        "rank": rank,
    }
