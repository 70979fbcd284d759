"""A contact sheet: pictures with their core regions drawn in, and the titles under them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from encoders.products import Aspect, Product
from moonrec.atomic import atomic_file
from moonrec.images import decode_image

_COLUMNS = 6
_PICTURE = 200
_GAP = 8
_LINES, _LINE = 2, 15
_CELL = (_PICTURE + _GAP, _PICTURE + _LINES * _LINE + 2 * _GAP)
_PAPER, _INK, _GREY = "white", (20, 20, 20), (140, 140, 140)
# Drawn twice, so that the frame shows on light and on dark pictures.
_FRAME, _EDGE = (255, 45, 45), (255, 255, 255)


def write_sheet(path: str | Path, products: Sequence[Product]) -> None:
    """Draw products with usable pictures as a PNG of up to six columns; one without a box says `whole`.

    Raises:
        UserError: `path` cannot be written.
        BrokenImage: a picture does not decode.
    """
    columns = min(_COLUMNS, len(products))
    rows = math.ceil(len(products) / columns)
    sheet = Image.new("RGB", (columns * _CELL[0] + _GAP, rows * _CELL[1] + _GAP), _PAPER)
    for number, product in enumerate(products):
        row, column = divmod(number, columns)
        _draw(sheet, product, column * _CELL[0] + _GAP, row * _CELL[1] + _GAP)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")


def _draw(sheet: Image.Image, product: Product, left: int, top: int) -> None:
    if product.image is None:
        raise ValueError(f"product {product.key!r} has no picture")
    picture = decode_image(product.image, draft_size=_PICTURE)
    scale = _PICTURE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size)
    if product.region is not None:
        x0, y0, x1, y1 = product.region
        corners = (x0 * size[0], y0 * size[1], x1 * size[0] - 1, y1 * size[1] - 1)
        pen = ImageDraw.Draw(picture)
        pen.rectangle(corners, outline=_EDGE, width=4)
        pen.rectangle(corners, outline=_FRAME, width=2)
    sheet.paste(picture, (left + (_PICTURE - size[0]) // 2, top + (_PICTURE - size[1]) // 2))
    words = next((text for aspect, text in product.texts if aspect is Aspect.TITLE), product.key)
    lines = _wrapped(words if product.region is not None else f"[whole] {words}")
    for number, line in enumerate(lines):
        colour = _INK if product.region is not None else _GREY
        place = (left, top + _PICTURE + 2 + number * _LINE)
        ImageDraw.Draw(sheet).text(place, line, fill=colour, font=ImageFont.load_default(12))


def _wrapped(text: str) -> list[str]:
    """At most two lines that fit under a picture, the last one cut with an ellipsis."""
    font = ImageFont.load_default(12)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _PICTURE or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < _LINES:
            lines.append(word)
        else:
            lines[-1] += " …"
            break
    return [_cut(line) for line in lines]


def _cut(line: str) -> str:
    font = ImageFont.load_default(12)
    if font.getlength(line) <= _PICTURE:
        return line
    kept = line[:200]
    while kept and font.getlength(kept + "…") > _PICTURE:
        kept = kept[:-1]
    return kept + "…"
