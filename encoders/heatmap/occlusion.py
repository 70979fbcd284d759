"""A picture with one cell after the other covered, and what that says about each place in it.

Occlusion (Zeiler and Fergus, https://arxiv.org/abs/1311.2901): what a place is worth is what covering it
changes. What lies under the cover is blurred, not blackened, since a black square is a thing to look at in
itself. Cells of a seventh of the sides: in simulated photos larger, overlapping windows put less of the heat
on the product, and their maps told less well which cells matter together (ours, see docs/heatmaps.md).

Shapes: G cells along a side of the map.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from encoders.products import Product
from moonrec.images import decode_image

CELLS = 7
# Pixels of the longer side: no backbone reads pictures finer by default.
_SIDE = 448
_BLUR = 1 / 8


def covered(product: Product, cells: int = CELLS) -> tuple[Product, list[Product]]:
    """The product as the covered ones are made from it, and those, one per cell, row by row (G * G).

    Args:
        product: with a picture.
        cells: G.

    Raises:
        BrokenImage: the picture does not decode.
        ValueError: there is none.
    """
    if product.image is None:
        raise ValueError(f"product {product.key!r} has no picture")
    picture = decode_image(product.image, draft_size=_SIDE)
    picture.thumbnail((_SIDE, _SIDE))
    blurred = picture.filter(ImageFilter.GaussianBlur(max(picture.size) * _BLUR))
    boxes = [_box_of(cell, cells, picture.size) for cell in range(cells * cells)]
    files = [_file(_with_patch(picture, blurred, box)) for box in boxes]
    return replace(product, image=_file(picture)), [replace(product, image=file) for file in files]


def heat_of(change_C: np.ndarray) -> np.ndarray:
    """Each cell's share of what covering changes, (G, G); all zero where nothing changed.

    A cell whose covering brings the vector nearer to what is explained counts as none.
    """
    heat_C = np.clip(change_C.astype(np.float64), 0, None)
    total, cells = heat_C.sum(), math.isqrt(len(heat_C))
    return (heat_C / total if total > 0 else heat_C).reshape(cells, cells)


def mass_inside(heat_GG: np.ndarray, box: tuple[float, float, float, float]) -> float:
    """The share of the heat inside a box (x0, y0, x1, y1 in shares of the sides); cells count in part."""
    low_G = np.arange(len(heat_GG)) / len(heat_GG)
    high_G = low_G + 1 / len(heat_GG)

    def part_G(low: float, high: float) -> np.ndarray:
        return np.clip(np.minimum(high_G, high) - np.maximum(low_G, low), 0, None) * len(heat_GG)

    return float(part_G(box[1], box[3]) @ heat_GG @ part_G(box[0], box[2]))


def _box_of(cell: int, cells: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels of a cell; cells end at whole pixels, and together they are all of the picture."""
    (row, column), (width, height) = divmod(cell, cells), size
    left, top = column * width // cells, row * height // cells
    return left, top, (column + 1) * width // cells, (row + 1) * height // cells


def _with_patch(picture: Image.Image, patch: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    changed = picture.copy()
    changed.paste(patch.crop(box), box)
    return changed


def _file(picture: Image.Image) -> bytes:
    """As BMP, which takes no time to write and to read."""
    stream = io.BytesIO()
    picture.save(stream, "BMP")
    return stream.getvalue()
