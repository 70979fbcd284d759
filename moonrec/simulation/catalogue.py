"""The hidden truth about the products: how they look, what they are in words, how good and popular they are.

Every column has its own random stream and is drawn item by item, so item k is the same in a catalogue of any
size. SKUs of one product take the facts of its first SKU, except for colour where they differ by colour.

Legend: I items, F word facts, V width of the visual style.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moonrec.simulation.seeds import stream
from moonrec.simulation.vocabulary import BRANDS, KINDS, MOODS, OCCASIONS, PATTERNS, SHAPES, SOFT_MATERIALS

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

DAY = 86_400_000_000
"""Microseconds in a day."""
DAYS = 60
TEST_DAYS = 8
START = 1_704_067_200_000_000
"""The first microsecond: 2024-01-01 UTC."""
TEST_START = START + (DAYS - TEST_DAYS) * DAY
END = START + DAYS * DAY

WORD_FACTS = ("material", "brand", "mood", "occasion")
LATE_SHARE = 0.15


@dataclass(frozen=True)
class Catalogue:
    """All items as columns of length I; `words_IF` holds codes in the order of `WORD_FACTS`."""

    product: IntArray
    shape: IntArray
    hue: FloatArray
    saturation: FloatArray
    lightness: FloatArray
    second_hue: FloatArray
    pattern: IntArray
    texture: FloatArray
    form: FloatArray
    words_IF: IntArray
    quality: FloatArray
    popularity: FloatArray
    launch: IntArray
    late: BoolArray
    has_image: BoolArray
    cluttered: BoolArray
    extra_photos: IntArray

    def __len__(self) -> int:
        return len(self.product)

    def visual_style_IV(self) -> FloatArray:
        """Return the look as unit vectors (I, V): colour circle, lightness, pattern, texture scale, form."""
        angle = 2 * np.pi * self.hue
        pattern = np.eye(len(PATTERNS), dtype=np.float32)[self.pattern]
        columns = [
            1.1 * np.cos(angle),
            1.1 * np.sin(angle),
            2.5 * (self.lightness - 0.52),
            0.5 * self.texture,
            0.5 * self.form,
        ]
        style_IV = np.concatenate([np.stack(columns, axis=1), 0.9 * pattern], axis=1)
        unit_IV: FloatArray = (style_IV / np.linalg.norm(style_IV, axis=1, keepdims=True)).astype(np.float32)
        return unit_IV


def item_id(index: int) -> str:
    """Return the id of the item at a position of the catalogue."""
    return f"i{index:06d}"


def draw_catalogue(items: int, seed: int) -> Catalogue:
    """Draw the hidden facts of `items` items."""

    def uniform(name: str, low: float = 0.0, high: float = 1.0) -> FloatArray:
        return stream(seed, name).uniform(low, high, items).astype(np.float32)

    def choice(name: str, count: int) -> IntArray:
        return stream(seed, name).integers(0, count, items)

    first, recoloured = _group_skus(items, seed)
    own = np.arange(items)
    look = np.where(recoloured, own, first)
    shape = choice("shape", len(SHAPES))[first]
    late, launch = _launches(items, seed)
    quality = stream(seed, "quality").standard_normal(items).astype(np.float32)
    return Catalogue(
        product=np.cumsum(first == own) - 1,
        shape=shape,
        hue=uniform("hue")[look],
        saturation=uniform("saturation", 0.45, 0.95)[look],
        lightness=uniform("lightness", 0.26, 0.78)[look],
        second_hue=uniform("second hue")[look],
        pattern=choice("pattern", len(PATTERNS))[first],
        texture=uniform("texture", -1, 1)[first],
        form=uniform("form", -1, 1)[first],
        words_IF=_word_facts(shape, seed)[first],
        quality=quality,
        popularity=_popularity(quality, late, seed),
        launch=launch,
        late=late,
        has_image=uniform("no image") > 0.01,
        cluttered=uniform("cluttered") < 0.4,
        extra_photos=np.searchsorted([0.55, 0.82], uniform("extra photos")),
    )


def _group_skus(items: int, seed: int) -> tuple[IntArray, BoolArray]:
    """Return each item's first SKU of the same product, and whether it differs from that one by colour."""
    joins = stream(seed, "sku").random(items) < 0.22
    recoloured = stream(seed, "sku colour").random(items) < 0.65
    joins[0] = False
    position = np.arange(items)
    first = np.maximum.accumulate(np.where(joins, -1, position))
    # A run of joins is cut into products of three SKUs at most.
    first += (position - first) // 3 * 3
    return first, recoloured & (first != position)


def _word_facts(shape: IntArray, seed: int) -> IntArray:
    """Draw word facts (I, F). Brands lean to a mood and moods to an occasion, as they do in shops."""
    items = len(shape)
    soft = np.array([kind.soft for kind in KINDS.values()])[shape]
    material = stream(seed, "material").integers(0, SOFT_MATERIALS, items) + np.where(soft, 0, SOFT_MATERIALS)
    brand = stream(seed, "brand").integers(0, len(BRANDS), items)
    mood = _leaning(brand, len(MOODS), "mood", seed)
    occasion = _leaning(mood, len(OCCASIONS), "occasion", seed)
    return np.stack([material, brand, mood, occasion], axis=1)


def _leaning(on: IntArray, count: int, name: str, seed: int) -> IntArray:
    """Draw values of which half follow the value they lean on, half are free."""
    favourite = stream(seed, name + " lean").integers(0, count, int(on.max(initial=0)) + 1)[on]
    free = stream(seed, name).integers(0, count, len(on))
    return np.where(stream(seed, name + " free").random(len(on)) < 0.5, favourite, free)


def _launches(items: int, seed: int) -> tuple[BoolArray, IntArray]:
    """Draw who launches late (just before or in the test period) and every launch time in microseconds."""
    late = stream(seed, "late").random(items) < LATE_SHARE
    when = stream(seed, "launch").random(items)
    late_launch = TEST_START + ((when * (TEST_DAYS + 2) - 4) * DAY).astype(np.int64)
    # A third of the others arrive during the first 30 days, the rest were there before.
    early_launch = START + ((when * 90 - 60) * DAY).astype(np.int64)
    launch = np.where(late, late_launch, early_launch)
    launch[0], late[0] = START - DAY, False  # there is always something to sell
    return late, launch


def _popularity(quality: FloatArray, late: BoolArray, seed: int) -> FloatArray:
    """Draw long-tailed weights (Pareto), a little higher for good items and for promoted new ones."""
    tail = 1.0 - stream(seed, "popularity").random(len(quality))
    weight: FloatArray = (tail**-0.75 * np.exp(0.2 * quality) * np.where(late, 1.5, 1.0)).astype(np.float32)
    return np.minimum(weight, 100.0)
