"""More pictures of items: made by an augmenter, encoded as files, judged, and only then kept."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from encoders.augment.agreement import Agreement
from encoders.augment.counts import Counts
from encoders.augment.image_variants import ImageAugmenter
from encoders.products import Product

# Nobody sees the difference, and a file takes a tenth of a PNG's room.
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class MadeImage:
    """A picture as a JPEG file, how it was made, its agreement with its item, and whether it stands."""

    data: bytes
    source: str
    agreement: float
    stands: bool


@dataclass(frozen=True)
class MadeImages:
    """All pictures that were made for an item; `own` is the agreement of its own picture."""

    own: float | None
    made: tuple[MadeImage, ...]


NO_IMAGES = MadeImages(None, ())


class ImageMaker:
    """Makes pictures of items and judges them.

    What is drawn for an item depends on the seed and its id, not on what comes before it.

    Args:
        augmenter: makes the pictures.
        agreement: judges them.
        count: pictures per item, before any is dropped.
        seed: of all that is drawn.
    """

    def __init__(self, augmenter: ImageAugmenter, agreement: Agreement, count: int, seed: int) -> None:
        self._augmenter = augmenter
        self._agreement = agreement
        self._count = count
        self._seed = seed

    def make(self, products: Sequence[Product], counts: Counts) -> list[MadeImages]:
        """The pictures of each product, whose region is set; what became of them is added to `counts`."""
        variants = [self._augmenter.variants(one, self._count, self._rng(one.key)) for one in products]
        files = [[_jpeg(variant.image) for variant in of_one] for of_one in variants]
        judgements = self._agreement.judge(products, files)
        made = []
        for of_one, data, judgement in zip(variants, files, judgements, strict=True):
            told = zip(data, of_one, judgement.variants, judgement.stand, strict=True)
            pictures = [MadeImage(file, one.source, share, stands) for file, one, share, stands in told]
            made.append(MadeImages(judgement.own, tuple(pictures)))
        for product, images in zip(products, made, strict=True):
            _count(counts, product, images)
        return made

    def _rng(self, key: str) -> np.random.Generator:
        digest = hashlib.sha256(key.encode()).digest()
        return np.random.default_rng([self._seed, int.from_bytes(digest[:8])])


def _count(counts: Counts, product: Product, images: MadeImages) -> None:
    stand = [one for one in images.made if one.stands]
    counts.images.update(one.source for one in stand)
    counts.dropped.update(one.source for one in images.made if not one.stands)
    if product.image is not None and images.own is None:
        counts.broken.add(product.key, product.broken or "does not decode")
    elif product.broken is not None:
        counts.broken.add(product.key, product.broken)
    counts.items[_outcome(product, images, bool(stand))] += 1


def _outcome(product: Product, images: MadeImages, any_stands: bool) -> str:
    if any_stands:
        return "with pictures"
    if product.image is None and product.broken is None:
        return "without an own picture"
    if images.own is None:
        return "with a broken picture"
    return "all dropped" if images.made else "none could be made"


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()
