"""What a product's vector comes from, by covering and leaving out: the same for every backbone.

The pooled representation of the product, or that of a query, is held fixed, and everything is measured on it:
how far the vector moves away from it when a place of the picture is covered or a word of the title left out,
and what each aspect adds. No gradient or attention weight is read: attention of a layer whose values are
small tells where it looks and not what it takes (https://arxiv.org/abs/1902.10186), and the gradient of a
cosine with itself is zero.

Shapes: V variants of a product (C cells, W words), E embedding width, G cells along a side of a heatmap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from encoders.encoder import Encoder, Preparer, ProductTable
from encoders.encoding import encode
from encoders.heatmap.aspects import aspects_of, shapley, views_of
from encoders.heatmap.occlusion import CELLS, covered, heat_of
from encoders.heatmap.words import title_words, without_words
from encoders.products import Aspect, Product
from moonrec.images import BrokenImage

_BATCH = 64
FLOOR = 0.005
"""Where no cell, or no word, takes as much of the cosine with a query, none of them counts (ours): shares of
nothing are noise that looks like an answer."""


@dataclass(frozen=True)
class Attribution:
    """What one encoder's vector of one product comes from.

    Attributes:
        heat_GG: each place's share of what covering the picture changes, summing to 1 (all zero where it
            changes nothing); None without a usable picture.
        words: the words of the title, each with its share of what leaving one out changes, summing to 1 (all
            zero where it changes nothing).
        aspects: the Shapley value of each aspect. They sum to the cosine with what is explained: to 1 for the
            product itself.
        broken: why the picture could not be used.
        cosine: with the query, where the match with one is explained.
    """

    heat_GG: np.ndarray | None
    words: tuple[tuple[str, float], ...]
    aspects: dict[Aspect, float]
    broken: str | None = None
    cosine: float | None = None


def attribute(
    encoder: Encoder,
    products: Iterable[Product],
    device: torch.device,
    *,
    cache: Path | None = None,
    target_E: np.ndarray | None = None,
    cells: int = CELLS,
) -> Iterator[Attribution]:
    """What the vectors of products come from, one product after the other.

    Args:
        encoder: ready to encode, on `device`.
        products: with their core regions, where the encoder looks at them.
        device: where to compute.
        cache: folder in which features are kept: encoders with the same towers share them.
        target_E: a unit vector to explain the match with; default: each product's own.
        cells: G; each of the G * G cells costs one encoding of the product.
    """
    preparer = encoder.preparer(cache, device)
    for product in products:
        yield _attribute(encoder, preparer, product, device, target_E, cells)


def vector_of(encoder: Encoder, product: Product, device: torch.device) -> np.ndarray:
    """The unit vector (E,) of one product or query; zeros if it shows nothing."""
    table = encoder.preparer(None, device).table([[product]])
    return encode(encoder, table, device=device)[0][0]


def _attribute(
    encoder: Encoder,
    preparer: Preparer,
    product: Product,
    device: torch.device,
    target_E: np.ndarray | None,
    cells: int,
) -> Attribution:
    product, hidden, broken = _covered(product, cells)
    variants = [product, *hidden, *without_words(product)]
    table = preparer.table([variants])
    vectors_VE, _ = encode(encoder, table, device=device, batch_size=_BATCH)
    cosine = None if target_E is None else float(vectors_VE[0] @ target_E)
    target_E = vectors_VE[0] if target_E is None else target_E
    change_V = vectors_VE[0] @ target_E - vectors_VE[1:] @ target_E
    cells_C, words_W = np.split(change_V, [len(hidden)])
    if cosine is not None:
        cells_C, words_W = _above_floor(cells_C), _above_floor(words_W)
    return Attribution(
        heat_GG=heat_of(cells_C) if hidden else None,
        words=tuple(zip(title_words(product), _shares(words_W), strict=True)),
        aspects=_aspects(encoder, table, product, device, target_E),
        broken=broken,
        cosine=cosine,
    )


def _covered(product: Product, cells: int) -> tuple[Product, list[Product], str | None]:
    """The product with a picture that can be covered, or with none; the covered ones; why there is none."""
    if product.image is None:
        return product, [], product.broken
    try:
        return *covered(product, cells), None
    except BrokenImage as error:
        return Product(product.key, None, product.texts), [], str(error)


def _above_floor(change_V: np.ndarray) -> np.ndarray:
    """The changes as they are if any of them takes as much as `FLOOR` away; else none."""
    return change_V if change_V.max(initial=0.0) >= FLOOR else np.zeros_like(change_V)


def _shares(change_V: np.ndarray) -> list[float]:
    gain_V = np.clip(change_V.astype(np.float64), 0, None)
    total = gain_V.sum()
    return (gain_V / total if total > 0 else gain_V).tolist()


def _aspects(
    encoder: Encoder, table: ProductTable, product: Product, device: torch.device, target_E: np.ndarray
) -> dict[Aspect, float]:
    aspects, first = aspects_of(product, pictured=product.image is not None), np.zeros(1, np.int64)
    value = {
        view: float(encode(encoder, table, device=device, view=view, rows=first)[0][0] @ target_E)
        for view in views_of(aspects)
    }
    return shapley(aspects, value)
