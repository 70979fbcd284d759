"""Further pictures of a product from its own picture alone: no model is asked, nothing is invented.

Four kinds, those of MOON2.0's image expansion (https://arxiv.org/abs/2511.12449) and one for light:

- `background`: the product is cut out and put on another ground;
- `viewpoint`: the picture is turned, sheared, scaled and shifted a little;
- `detail`: a part of the core region, from the picture's full resolution;
- `light`: brightness, contrast, gamma and colour temperature.

Nothing is mirrored: that would spoil writing and logos, and turn a left shoe into a right one. Changes of
colour stay small, since a colour is often a fact that the title tells.

Shapes: H, W pixels, C colours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from encoders.augment.backgrounds import draw_ground
from encoders.augment.cutout import Plane, cut_out
from encoders.augment.image_variants import MIN_PIXELS, Variant, drawn_kinds, is_usable, scaled_down
from encoders.products import Product
from encoders.regions.boxes import WHOLE, Box
from moonrec.images import BrokenImage, decode_image

# To be raised when the same picture and seed give other variants.
_VERSION = 1
KINDS = ("background", "viewpoint", "detail", "light")


@dataclass(frozen=True)
class _Scene:
    """A picture as it was decoded and at the wanted size, and the mask of the product if there is one."""

    full: Image.Image
    picture: Image.Image
    region: Box
    mask_HW: Plane | None


class LocalImages:
    """Makes variants with the picture's own pixels, quickly and without a model.

    Args:
        size: the longer side of a variant in pixels; smaller pictures are not enlarged.
    """

    name = "local"

    def __init__(self, size: int = 256) -> None:
        self._size = size

    def fingerprint(self) -> str:
        """See `ImageAugmenter`."""
        return hashlib.sha256(f"local {_VERSION} {self._size}".encode()).hexdigest()

    def variants(self, product: Product, count: int, rng: np.random.Generator) -> list[Variant]:
        """See `ImageAugmenter`; a picture that is one colour, or less than 16 pixels thin, has none."""
        scene = self._scene(product)
        if scene is None:
            return []
        kinds = KINDS if scene.mask_HW is not None else KINDS[1:]
        return [self._variant(scene, kind, rng) for kind in islice(drawn_kinds(kinds, rng), count)]

    def _scene(self, product: Product) -> _Scene | None:
        if product.image is None:
            return None
        try:
            full = decode_image(product.image, draft_size=self._size)
        except BrokenImage:
            return None
        picture = scaled_down(full, self._size)
        if not is_usable(picture):
            return None
        return _Scene(full, picture, product.region or WHOLE, cut_out(picture, product.region))

    def _variant(self, scene: _Scene, kind: str, rng: np.random.Generator) -> Variant:
        if kind == "background" and scene.mask_HW is not None:
            image = on_new_ground(scene.picture, scene.mask_HW, rng)
        elif kind == "viewpoint":
            image = from_another_side(scene.picture, scene.region, rng)
        elif kind == "detail":
            image = scaled_down(detail(scene.full, scene.region, rng), self._size)
        else:
            image = in_other_light(scene.picture, rng)
        return Variant(image, kind)


def on_new_ground(picture: Image.Image, mask_HW: Plane, rng: np.random.Generator) -> Image.Image:
    """The product where it was, on a drawn background."""
    ground = draw_ground(picture, mask_HW, rng)
    mask = Image.fromarray((mask_HW * 255).round().astype(np.uint8))
    return Image.composite(picture, ground, mask)


def from_another_side(picture: Image.Image, region: Box, rng: np.random.Generator) -> Image.Image:
    """The picture after a small affine change that keeps the region inside; its edge is drawn outwards."""
    # A long picture turned as far as a square one would shrink to a strip.
    room = min(picture.size) / max(picture.size)
    angle, shear = np.radians(rng.uniform(-15, 15)) * room, rng.uniform(-0.15, 0.15) * room
    squeeze, scale = rng.uniform(0.85, 1.0), rng.uniform(0.75, 1.2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    change = turn @ np.array([[squeeze, shear], [0.0, 1.0]])
    size = np.array(picture.size, np.float64)
    low, high = np.array(region[:2]) * size, np.array(region[2:]) * size
    centre = (low + high) / 2
    reach = np.abs(change) @ (high - low) / 2
    # No larger than fits, and shifted only as far as there is room on both sides.
    change *= min(scale, float((size / 2 / reach).min()))
    slack = np.maximum(size / 2 - np.abs(change) @ (high - low) / 2, 0)
    target = size / 2 + (centre - size / 2).clip(-slack, slack) * rng.uniform(0.3, 1.0, 2)
    return _moved(picture, np.linalg.inv(change), centre, target)


def _moved(picture: Image.Image, inverse: np.ndarray, centre: np.ndarray, target: np.ndarray) -> Image.Image:
    """The picture with `centre` moved to `target`; `inverse` leads from new pixels back to old ones."""
    width, height = picture.size
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]])
    seen = (corners - target) @ inverse.T + centre
    margin = int(np.ceil(max(0.0, -seen.min(), (seen - picture.size).max()))) + 2
    padded = np.pad(np.asarray(picture), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    offset = centre + margin - inverse @ target
    rows = (*inverse[0], offset[0], *inverse[1], offset[1])
    affine = Image.Transform.AFFINE
    return Image.fromarray(padded).transform(picture.size, affine, rows, Image.Resampling.BICUBIC)


def detail(picture: Image.Image, region: Box, rng: np.random.Generator) -> Image.Image:
    """A part of the region, of 45 to 75 % of its sides."""
    share = rng.uniform(0.45, 0.75)
    size = np.array(picture.size, np.float64)
    low, high = np.array(region[:2]) * size, np.array(region[2:]) * size
    # A detector's box is never thin, a picture can be: what is cut out has pixels on each side.
    part = np.maximum((high - low) * share, np.minimum(size, MIN_PIXELS))
    start = (low + rng.uniform(0, 1, 2) * (high - low - part)).clip(0, size - part)
    left, top, right, bottom = (*start.round().astype(int), *(start + part).round().astype(int))
    return picture.crop((int(left), int(top), int(right), int(bottom)))


def in_other_light(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Other brightness, contrast, gamma and colour temperature, by one curve per colour."""
    gain, contrast, gamma = rng.uniform(0.75, 1.2), rng.uniform(0.75, 1.25), rng.uniform(0.8, 1.25)
    warmth = rng.uniform(-0.1, 0.1)
    level_V = np.arange(256) / 255
    curve_V = gain * (0.5 + contrast * (level_V**gamma - 0.5))
    curve_CV = np.outer((1 + warmth, 1.0, 1 - warmth), curve_V)
    return picture.point((curve_CV.clip(0, 1) * 255).round().astype(int).ravel().tolist())
