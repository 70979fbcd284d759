"""Further pictures of a product: what an augmenter of pictures takes and gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from encoders.products import Product

# Ours: of a thinner picture there is nothing to see, and a dot is often a shop's stand-in for a photo.
MIN_PIXELS = 16


@dataclass(frozen=True)
class Variant:
    """One more picture of a product.

    Attributes:
        image: RGB.
        source: how it was made: `background`, `viewpoint`, `detail`, `light`, or `edited:<model>`.
    """

    image: Image.Image
    source: str


class ImageAugmenter(Protocol):
    """Makes further pictures of one product; `name` says which way."""

    name: str

    def fingerprint(self) -> str:
        """A digest of everything that the pictures depend on, besides product, count and `rng`."""

    def variants(self, product: Product, count: int, rng: np.random.Generator) -> list[Variant]:
        """At most `count` pictures; the same product and state of `rng` give the same pixels.

        Args:
            product: `image` is the undecoded file, `region` the core region or None for the whole picture.
            count: how many are wanted; there may be fewer, and none without a usable picture.
            rng: what everything random is drawn from.
        """


def drawn_kinds(kinds: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """The kinds in a drawn order, again and again: none comes back before all others have been there."""
    while True:
        for index in rng.permutation(len(kinds)).tolist():
            yield kinds[index]


def is_usable(picture: Image.Image) -> bool:
    """Whether a picture (RGB) shows anything: it is not a thin line, and not one colour."""
    return min(picture.size) >= MIN_PIXELS and bool(np.ptp(np.asarray(picture), (0, 1)).any())


def scaled_down(picture: Image.Image, size: int) -> Image.Image:
    """The picture with its longer side at most `size`; a smaller one as it is."""
    scale = size / max(picture.size)
    if scale >= 1:
        return picture
    sides = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(sides, Image.Resampling.LANCZOS, reducing_gap=2.0)
