"""A contact sheet of augmented items: a row each, the own picture and what was made of it, titles below."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from encoders.augment.augmented_parts import AugmentedParts, Shown
from encoders.augment.judged_images import MadeImages
from encoders.augment.title import Enriched
from encoders.products import Aspect, Product
from moonrec.atomic import atomic_file
from moonrec.images import BrokenImage, decode_image

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# Ours: as many as one looks through in a minute.
SHEET_ITEMS = 16
_PICTURE, _GAP, _LINE = 200, 8, 16
_PAPER, _INK, _GREY, _RED = "white", (20, 20, 20), (140, 140, 140), (200, 30, 30)


def sheet_rows(rows: int, seed: int) -> frozenset[int]:
    """Which rows of a catalogue are drawn."""
    drawn = np.random.default_rng(seed).choice(rows, min(rows, SHEET_ITEMS), replace=False)
    return frozenset(drawn.tolist())


def shown_of(product: Product, title: Enriched, images: MadeImages) -> list[Shown]:
    """What the sheet shows of one item: two lines of titles, then pictures."""
    own = next((text for aspect, text in product.texts if aspect is Aspect.TITLE), "")
    after = f"{title.title}  [{title.source}]" if title.title else f"[{title.source}]"
    lines = [Shown(None, f"{product.key}: {own}"), Shown(None, after)]
    if product.image is not None:
        share = "" if images.own is None else f" {images.own:.2f}"
        lines.append(Shown(product.image, f"original{share}"))
    made = (Shown(one.data, f"{one.source} {one.agreement:.2f}", one.stands) for one in images.made)
    return [*lines, *made]


def write_sheet(path: str | Path, parts: AugmentedParts) -> None:
    """Draw the items that the parts keep for it, in their order, as a PNG; dropped pictures are marked.

    Raises:
        UserError: `path` cannot be written.
    """
    rows = [row for number in range(len(parts.parts)) for row in parts.read(number)[0]["shown"].to_pylist()]
    items = [[Shown(**one) for one in row] for row in rows if row is not None]
    columns = max(sum(one.bytes is not None for one in item) for item in items)
    height = _PICTURE + 3 * _LINE + 2 * _GAP
    sheet = Image.new("RGB", (max(4, columns) * (_PICTURE + _GAP) + _GAP, len(items) * height + _GAP), _PAPER)
    for number, item in enumerate(items):
        _draw(sheet, item, number * height + _GAP)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")


def _draw(sheet: Image.Image, item: Sequence[Shown], top: int) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    lines = [one.caption for one in item if one.bytes is None]
    for line, text in enumerate(lines):
        place = (_GAP, top + _PICTURE + (1 + line) * _LINE)
        pen.text(place, one_line(text, font, sheet.width - 2 * _GAP), fill=(_INK, _GREY)[line], font=font)
    pictures = [one for one in item if one.bytes is not None]
    for column, one in enumerate(pictures):
        left = column * (_PICTURE + _GAP) + _GAP
        _paste(sheet, one, left, top)
        caption = one_line(f"{'' if one.stands else 'dropped: '}{one.caption}", font, _PICTURE)
        pen.text((left, top + _PICTURE), caption, fill=_INK if one.stands else _RED, font=font)


def one_line(text: str, font: Font, width: int) -> str:
    """As much of a text as fits one line of `width` pixels, without line breaks and control characters."""
    # No letter is narrower than a pixel or two; a text of a megabyte is not measured.
    line = " ".join("".join(one if one.isprintable() else " " for one in text[: 2 * width]).split())
    if len(text) <= 2 * width and font.getlength(line) <= width:
        return line
    fitting = bisect_right(range(len(line)), width, key=lambda end: ceil(font.getlength(f"{line[:end]}…")))
    return f"{line[: max(0, fitting - 1)].rstrip()}…"


def _paste(sheet: Image.Image, one: Shown, left: int, top: int) -> None:
    try:
        picture = decode_image(one.bytes or b"", draft_size=_PICTURE)
    except BrokenImage:
        ImageDraw.Draw(sheet).text((left, top), "broken", fill=_GREY, font=ImageFont.load_default(12))
        return
    scale = _PICTURE / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    sheet.paste(picture, (left + (_PICTURE - picture.width) // 2, top + (_PICTURE - picture.height) // 2))
    if not one.stands:
        box = (left, top, left + _PICTURE - 1, top + _PICTURE - 1)
        ImageDraw.Draw(sheet).rectangle(box, outline=_RED, width=3)
