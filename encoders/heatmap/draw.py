"""A product drawn once: its picture, the heat over it for each encoder, and its words shaded by their share.

Shapes: G cells along a side of a heatmap, H and W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.patches import Rectangle

from encoders.heatmap.attribution import Attribution
from encoders.heatmap.words import title_of
from encoders.products import Aspect, Product
from moonrec.images import decode_image

ASPECT_NAMES = {aspect: "picture" if aspect is Aspect.IMAGE else aspect.name.lower() for aspect in Aspect}
_SIDE = 320
_PANEL = 2.6
_WORD_SIZE = 9
_LINE = 0.26
_LETTERS = 24
_SHADE = (0.85, 0.3, 0.1)
_FRAME = "#ff2d2d"
# Tried letter by letter, in this order, as far as they are installed; the first comes with matplotlib.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
    "Arial Unicode MS",
)


@dataclass(frozen=True)
class Drawn:
    """One product, and what each encoder (by name) makes of it."""

    product: Product
    by_encoder: Mapping[str, Attribution]


@contextmanager
def any_letters() -> Iterator[None]:
    """Write with whatever fonts are installed; a letter that none of them has becomes a box, silently.

    To be held around `product_figure` and around saving what it made.
    """
    with warnings.catch_warnings(), matplotlib.rc_context({"font.family": _installed_fonts()}):
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


@cache
def _installed_fonts() -> list[str]:
    installed = set(fontManager.get_font_names())
    return [name for name in _FONTS if name in installed]


def product_figure(drawn: Drawn) -> Figure:
    """The picture with the core region's box, then one column per encoder: heat, words and shares.

    Heat is shown as a multiple of an even map, on one scale for all encoders.
    """
    columns = 1 + len(drawn.by_encoder)
    lines = max(_line_count(one.words) for one in drawn.by_encoder.values())
    height = _PANEL + _LINE * (lines + 4 + any(one.cosine is not None for one in drawn.by_encoder.values()))
    figure = Figure(figsize=(_PANEL * columns * 1.15, height))
    grid = figure.add_gridspec(
        2, columns, height_ratios=[_PANEL, height - _PANEL], wspace=0.08, hspace=0.02,
        left=0.02, right=0.98, top=1 - 0.3 / height, bottom=0.01,
    )  # fmt: skip
    attributions = drawn.by_encoder.values()
    picture = None if any(one.heat_GG is None for one in attributions) else _picture(drawn.product)
    brightest = max((float(one.heat_GG.max()) for one in attributions if one.heat_GG is not None), default=0)
    first = figure.add_subplot(grid[0, 0])
    _show(first, picture, drawn.product, next(iter(attributions)).broken)
    first.set_title(_cut(drawn.product.key, 36), fontsize=10, parse_math=False)
    _write(figure.add_subplot(grid[1, 0]), _wrapped(title_of(drawn.product) or "(no title)"))
    for column, (name, one) in enumerate(drawn.by_encoder.items(), 1):
        axes = figure.add_subplot(grid[0, column])
        _show(axes, picture, drawn.product, one.broken)
        if picture is not None and one.heat_GG is not None:
            _heat(axes, picture, one.heat_GG, brightest)
        axes.set_title(_cut(name, 36), fontsize=10, parse_math=False)
        _column(figure, figure.add_subplot(grid[1, column]), one)
    return figure


def _picture(product: Product) -> Image.Image | None:
    if product.image is None:
        return None
    picture = decode_image(product.image, draft_size=_SIDE)
    picture.thumbnail((_SIDE, _SIDE))
    return picture


def _show(axes: Any, picture: Image.Image | None, product: Product, broken: str | None) -> None:
    axes.set_axis_off()
    if picture is None:
        reason = "no picture" if broken is None else f"picture cannot be used:\n{_cut(broken, 40)}"
        axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9, color="grey", parse_math=False)
        return
    axes.imshow(picture)
    if product.region is not None:
        x0, y0, x1, y1 = product.region
        width, height = picture.size
        place, sides = (x0 * width, y0 * height), ((x1 - x0) * width, (y1 - y0) * height)
        axes.add_patch(Rectangle(place, *sides, fill=False, edgecolor="white", linewidth=2.6))
        axes.add_patch(Rectangle(place, *sides, fill=False, edgecolor=_FRAME, linewidth=1.3))


def _heat(axes: Any, picture: Image.Image, heat_GG: np.ndarray, brightest: float) -> None:
    if not heat_GG.any():
        _note(axes, "no place matters")
        return
    smooth_HW = smooth(heat_GG, picture.size) / max(brightest, 1e-12)
    axes.imshow(smooth_HW, cmap="inferno", vmin=0, vmax=1, alpha=np.clip(0.25 + 0.6 * smooth_HW, 0, 0.85))
    _note(axes, f"brightest: {heat_GG.max() * heat_GG.size:.1f} x even")


def _note(axes: Any, text: str) -> None:
    axes.text(
        0.02, 0.02, text, transform=axes.transAxes, fontsize=7, color="white",
        bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "linewidth": 0},
    )  # fmt: skip


def smooth(heat_GG: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The map (H, W) between the middles of its cells, for a picture of `size` = (W, H)."""
    image = Image.fromarray(heat_GG.astype(np.float32))
    return np.clip(np.asarray(image.resize(size, Image.Resampling.BICUBIC)), 0, None)


def _column(figure: Figure, axes: Any, one: Attribution) -> None:
    """Shaded words, then what each aspect is worth."""
    axes.set_axis_off()
    renderer = FigureCanvasAgg(figure).get_renderer()
    box = axes.get_window_extent(renderer)
    line = _LINE / (box.height / figure.dpi)
    x, y, most = 0.0, 1 - line / 2, max((share for _, share in one.words), default=0)
    for word, share in one.words:
        written = axes.text(
            x, y, _cut(word, _LETTERS), fontsize=_WORD_SIZE, va="center", parse_math=False,
            bbox={
                "facecolor": (*_SHADE, 0.75 * share / most if most else 0), "pad": 1.5, "linewidth": 0,
            },
        )  # fmt: skip
        width = written.get_window_extent(renderer).width / box.width + 0.03
        if x and x + width > 1:
            x, y = 0.0, y - line
            written.set_position((x, y))
        x += width
    match = [] if one.cosine is None else [f"cosine with the query: {one.cosine:.3f}"]
    for text in [*match, *shares_lines(one.aspects)]:
        y -= line
        axes.text(0, y, text, fontsize=8, color="#5a6478", va="center")


def shares_lines(aspects: Mapping[Aspect, float]) -> list[str]:
    """`picture 51 %`, `title 20 %, ...`: at most three lines."""
    parts = [f"{ASPECT_NAMES[aspect]} {share:.0%}" for aspect, share in aspects.items()]
    return [", ".join(parts[at : at + 2]) for at in range(0, len(parts), 2)]


def _line_count(words: Sequence[tuple[str, float]]) -> int:
    """No fewer lines than the words will take: a line holds about so many letters."""
    return sum(min(len(word), _LETTERS) + 2 for word, _ in words) // 28 + 1


def _write(axes: Any, text: str) -> None:
    axes.set_axis_off()
    axes.text(0, 1, text, fontsize=_WORD_SIZE, va="top", transform=axes.transAxes, parse_math=False)


def _wrapped(text: str) -> str:
    lines = [""]
    for word in text.split():
        word = _cut(word, _LETTERS)
        if lines[-1] and len(lines[-1]) + len(word) > 32:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines if len(lines) <= 6 else [*lines[:5], "…"])


def _cut(text: str, letters: int) -> str:
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= letters else line[: letters - 1] + "…"
