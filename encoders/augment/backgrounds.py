"""New grounds to put a product on: plain, shaded, soft noise, or the picture's own surroundings out of focus.

Shapes: H, W pixels; N pixels that are background.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Size = tuple[int, int]
Plane = NDArray[np.float32]
Ground = Callable[[Image.Image, Plane, np.random.Generator], Image.Image]


def draw_ground(picture: Image.Image, mask_HW: Plane, rng: np.random.Generator) -> Image.Image:
    """A background of the picture's size, of a drawn kind.

    Args:
        picture: RGB; what is behind its product lends its colours to one of the kinds.
        mask_HW: how much of each pixel is product, 0..1.
        rng: what everything is drawn from.
    """
    ground = _GROUNDS[int(rng.integers(len(_GROUNDS)))]
    return ground(picture, mask_HW, rng)


def _plain(picture: Image.Image, mask_HW: Plane, rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", picture.size, tuple(_colour(rng).round().astype(int).tolist()))


def _shaded(picture: Image.Image, mask_HW: Plane, rng: np.random.Generator) -> Image.Image:
    """From corner to corner between neighbouring colours, as a studio's paper is lit."""
    return _enlarged(_colour(rng) + rng.uniform(-40, 40, (2, 2, 1)), picture.size)


def _noise(picture: Image.Image, mask_HW: Plane, rng: np.random.Generator) -> Image.Image:
    """Spots and grain of a wall, a cloth or a table, coarse or fine."""
    cells = int(rng.integers(4, 24))
    spots = rng.normal(0, rng.uniform(6, 22), (cells, cells, 1)) + rng.normal(0, 6, (cells, cells, 3))
    return _enlarged(_colour(rng) + spots, picture.size)


def _surroundings(picture: Image.Image, mask_HW: Plane, rng: np.random.Generator) -> Image.Image:
    """A patch of the picture with the product painted over, enlarged and out of focus."""
    pixels_HWC = np.asarray(picture, np.float32)
    behind_HW1 = 1 - mask_HW[:, :, None]
    mean_C = (pixels_HWC * behind_HW1).sum((0, 1)) / behind_HW1.sum().clip(1e-6)
    cleared = _image(pixels_HWC * behind_HW1 + mean_C * (1 - behind_HW1))
    share = rng.uniform(0.3, 0.6)
    x, y = rng.uniform(0, 1 - share, 2)
    width, height = picture.size
    patch = (x * width, y * height, (x + share) * width, (y + share) * height)
    small = cleared.resize((24, 24), Image.Resampling.BILINEAR, box=patch, reducing_gap=2.0)
    return small.filter(ImageFilter.GaussianBlur(1.5)).resize(picture.size, Image.Resampling.BICUBIC)


_GROUNDS: tuple[Ground, ...] = (_plain, _shaded, _noise, _surroundings)


def _colour(rng: np.random.Generator) -> NDArray[np.float64]:
    """RGB (3,): any lightness, rarely strong, as the grounds of product photos are."""
    lightness, strength = rng.uniform(40, 250), rng.uniform(0, 45)
    return (lightness + strength * rng.uniform(-1, 1, 3)).clip(0, 255)


def _enlarged(small: NDArray[np.float64], size: Size) -> Image.Image:
    return _image(small).resize(size, Image.Resampling.BICUBIC)


def _image(pixels: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
