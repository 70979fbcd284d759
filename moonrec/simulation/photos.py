"""Photos of simulated products: a silhouette with a pattern, seen by a camera, in a scene, as JPEG bytes.

Everything is drawn at twice the size and halved at the end, which smooths the edges.

Legend: H, W pixels of the region that the product covers.
"""

from __future__ import annotations

import colorsys
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from moonrec.simulation.catalogue import Catalogue
from moonrec.simulation.scenes import Camera, Scene, draw_background, draw_foreground
from moonrec.simulation.shapes import SILHOUETTES, Points, Silhouette
from moonrec.simulation.vocabulary import PATTERNS, SHAPES

SUPERSAMPLING = 2
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """What a product looks like from anywhere; colours are RGB 0..255."""

    shape: str
    pattern: str
    base: Colour
    second: Colour
    trim: Colour
    frequency: float
    width: float


@dataclass(frozen=True)
class Photo:
    """A JPEG and where the product is in it: x0, y0, x1, y1 as shares of width and height."""

    jpeg: bytes
    box: tuple[float, float, float, float]


def _rgb(hue: float, lightness: float, saturation: float) -> Colour:
    red, green, blue = colorsys.hls_to_rgb(hue % 1.0, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def look_of(catalogue: Catalogue, item: int) -> Look:
    """Return the look of the item at position `item`."""
    hue, lightness = float(catalogue.hue[item]), float(catalogue.lightness[item])
    saturation = float(catalogue.saturation[item])
    contrast = 0.9 if lightness < 0.52 else 0.16
    return Look(
        shape=SHAPES[catalogue.shape[item]],
        pattern=tuple(PATTERNS)[catalogue.pattern[item]],
        base=_rgb(hue, lightness, saturation),
        second=_rgb(float(catalogue.second_hue[item]), contrast, 0.5 * saturation),
        trim=_rgb(hue, 0.45 * lightness, 0.5 * saturation),
        frequency=3.0 * 1.6 ** float(catalogue.texture[item]),
        width=1.0 + 0.18 * float(catalogue.form[item]),
    )


def take_photo(look: Look, camera: Camera, scene: Scene, rng: np.random.Generator, size: int) -> Photo:
    """Draw the product `look` as `camera` sees it in `scene`; `size` is the side of the picture in pixels."""
    side = size * SUPERSAMPLING
    matrix = camera.matrix() @ np.diag([look.width, 1.0]) * side / 2
    shift = camera.centre() * side
    silhouette = SILHOUETTES[look.shape]
    image = draw_background(scene, camera, rng, side)
    _draw_product(image, silhouette, look, matrix, shift, scene.light)
    if scene.covered:
        draw_foreground(image, rng)
    picture = image.reduce(SUPERSAMPLING)
    box = np.clip(_bounds(_seen(silhouette.outline(), matrix, shift)) / side, 0.0, 1.0)
    x0, y0, x1, y1 = (float(value) for value in box)
    return Photo(_develop(picture, scene), (x0, y0, x1, y1))


def _seen(points: Points, matrix: Points, shift: Points) -> Points:
    return points @ matrix.T + shift


def _bounds(points: Points) -> Points:
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _flat(points: Points) -> list[float]:
    return list(points.ravel().tolist())


def _draw_product(
    image: Image.Image, silhouette: Silhouette, look: Look, matrix: Points, shift: Points, light: float
) -> None:
    draw = ImageDraw.Draw(image)
    unit = float(np.sqrt(abs(np.linalg.det(matrix))))
    bodies = [_seen(points, matrix, shift) for points in silhouette.body]
    for points, width in silhouette.behind:
        draw.line(
            _flat(_seen(points, matrix, shift)), fill=look.trim, width=round(width * unit), joint="curve"
        )
    corners = _bounds(np.concatenate(bodies))
    low = np.maximum(np.floor(corners[:2]), 0).astype(int)
    high = np.minimum(np.ceil(corners[2:]) + 1, image.size).astype(int)
    if (low < high).all():
        surface = _surface(look, low, high, matrix, shift, light)
        mask = Image.new("L", surface.size, 0)
        mask_draw = ImageDraw.Draw(mask)
        for body in bodies:
            mask_draw.polygon(_flat(body - low), fill=255)
        image.paste(surface, (int(low[0]), int(low[1])), mask)
    edge = max(1, round(0.02 * unit))
    for body in bodies:
        draw.line(_flat(np.concatenate([body, body[:1]])), fill=look.trim, width=edge)
    for points in silhouette.trim:
        draw.polygon(_flat(_seen(points, matrix, shift)), fill=look.trim)
    for points, width in silhouette.seams:
        draw.line(_flat(_seen(points, matrix, shift)), fill=look.trim, width=max(1, round(width * unit)))


def _surface(
    look: Look, low: NDArray[np.int64], high: NDArray[np.int64], matrix: Points, shift: Points, light: float
) -> Image.Image:
    """Return the patterned, lit surface over the pixels from `low` to `high`."""
    inverse = np.linalg.inv(matrix).astype(np.float32)
    x = np.arange(low[0], high[0], dtype=np.float32) + np.float32(0.5 - shift[0])
    y = np.arange(low[1], high[1], dtype=np.float32)[:, None] + np.float32(0.5 - shift[1])
    u_HW = inverse[0, 0] * x + inverse[0, 1] * y
    v_HW = inverse[1, 0] * x + inverse[1, 1] * y
    mark_HW = _marks(look.pattern, u_HW * look.frequency, v_HW * look.frequency)
    tone_HW = 1.0 + 0.14 * (np.float32(light) * u_HW - v_HW)
    palette = np.array([look.base, look.second], dtype=np.float32)
    colour_HWC = palette[mark_HW.view(np.uint8)] * tone_HW[..., None]
    return Image.fromarray(np.clip(colour_HWC, 0, 255).astype(np.uint8))


def _marks(pattern: str, u_HW: NDArray[np.float32], v_HW: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where the second colour goes; one unit of u and v is one repetition."""
    if pattern == "plain":
        return np.zeros(u_HW.shape, dtype=bool)
    if pattern == "stripes":
        return np.mod(v_HW, 1.0) < 0.4
    if pattern == "diagonal":
        return np.mod(u_HW + v_HW, 1.4) < 0.55
    if pattern == "dots":
        across, down = np.mod(u_HW, 1.0) - 0.5, np.mod(v_HW, 1.0) - 0.5
        return np.asarray(across * across + down * down < 0.085)
    if pattern == "checks":
        return (np.mod(u_HW, 1.0) < 0.5) ^ (np.mod(v_HW, 1.0) < 0.5)
    if pattern == "zigzag":
        return np.mod(v_HW + np.abs(np.mod(u_HW, 1.0) - 0.5), 0.8) < 0.32
    if pattern == "diamonds":
        return (np.mod(u_HW + 0.6 * v_HW, 1.2) < 0.6) ^ (np.mod(u_HW - 0.6 * v_HW, 1.2) < 0.6)
    return np.mod(np.sqrt(u_HW * u_HW + v_HW * v_HW), 0.9) < 0.36


def _develop(picture: Image.Image, scene: Scene) -> bytes:
    """Apply colour cast and brightness, blur, and JPEG compression."""
    levels = np.arange(256, dtype=np.float32)
    table = np.clip(np.concatenate([levels * gain for gain in scene.gains]), 0, 255)
    picture = picture.point(np.rint(table).astype(int).tolist())
    if scene.blur > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(scene.blur * picture.width / 128))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=scene.quality)
    return buffer.getvalue()
