"""For `--train-towers`: raw products by row, so that the towers run, and learn, inside the training step.

Shapes: B products, P of them with a picture, V views of it (the whole, the core region), H and W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor

from encoders.features import FeatureBatch, decode_pixels
from encoders.products import EVERYTHING, Aspect, BrokenImages, Product, View
from encoders.towers import GRID, IMAGE_CHANNELS, IMAGE_SIZE, Towers, Words, tokenize
from moonrec.atomic import storage_errors


@dataclass(frozen=True)
class RawBatch:
    """Pixels of the products that have a picture, and the words of all."""

    pixels_PVHW3: Tensor
    has_image_B: Tensor
    words: Words

    def __len__(self) -> int:
        return len(self.has_image_B)

    def to(self, device: torch.device | str) -> RawBatch:
        """The same batch on another device."""
        words = Words(*(value.to(device) for value in vars(self.words).values()))
        return RawBatch(self.pixels_PVHW3.to(device), self.has_image_B.to(device), words)

    def is_empty_B(self) -> Tensor:
        """True for products of which nothing is there to encode."""
        return ~(self.has_image_B | self.words.mask_BT.any(1))


def run_towers(towers: Towers, raw: RawBatch) -> FeatureBatch:
    """Features of raw products, with gradients where the towers want them."""
    batch, (shown, views) = len(raw.has_image_B), raw.pixels_PVHW3.shape[:2]
    image_BGC = torch.zeros(batch, views * GRID * GRID, IMAGE_CHANNELS, device=raw.has_image_B.device)
    if shown:
        cells = towers.image(raw.pixels_PVHW3.flatten(0, 1)).float()
        rows = torch.nonzero(raw.has_image_B).squeeze(1)
        image_BGC = image_BGC.index_copy(0, rows, cells.unflatten(0, (shown, views)).flatten(1, 2))
    words = raw.words
    text_BTC = towers.text(words)
    return FeatureBatch(image_BGC, raw.has_image_B, text_BTC, words.aspect_BT.byte(), words.mask_BT)


class RawTable:
    """Raw products by row: texts in memory, decoded pixels in a memory-mapped file."""

    def __init__(
        self, texts: list[tuple[tuple[Aspect, str], ...]], pixels: np.ndarray, has_image: np.ndarray
    ) -> None:
        self._texts = texts
        self._pixels = pixels
        self._has_image = has_image

    def __len__(self) -> int:
        return len(self._texts)

    def gather(self, rows: np.ndarray, view: View = EVERYTHING) -> RawBatch:
        """The products at `rows` (B,), of which only the aspects in `view` are shown."""
        has_image_B = self._has_image[rows] & (Aspect.IMAGE in view)
        pixels_PVHW3 = torch.from_numpy(np.ascontiguousarray(self._pixels[rows[has_image_B]]))
        texts = [[(aspect, text) for aspect, text in self._texts[row] if aspect in view] for row in rows]
        return RawBatch(pixels_PVHW3, torch.from_numpy(has_image_B), tokenize(texts))

    def has_image(self) -> np.ndarray:
        """Which products (N,) have a usable picture."""
        return self._has_image

    def has_text(self) -> np.ndarray:
        """Which products (N,) have any words."""
        return np.array([bool(texts) for texts in self._texts], bool)

    def lengths(self) -> np.ndarray:
        """Characters of text per product (N,): what its tokens will be is not known yet."""
        return np.array([sum(len(text) for _, text in texts) for texts in self._texts], np.int64)


class RawPixels:
    """Prepares raw tables: every picture is decoded once, into a file that ends with the process.

    Args:
        folder: where the file stands (150 kB a product, twice that with `regions`).
        regions: whether the core region's crop is kept too.
    """

    def __init__(self, folder: Path, *, regions: bool) -> None:
        self._folder = folder
        self._views = 1 + regions
        self.broken = BrokenImages()

    def table(self, *tables: Iterable[list[Product]]) -> RawTable:
        """All products of one or several tables, one after the other, as one table."""
        texts: list[tuple[tuple[Aspect, str], ...]] = []
        has_image: list[bool] = []
        blank = np.zeros((self._views, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        with storage_errors(self._folder), TemporaryFile(dir=self._folder) as file:
            for product, picture in self._decoded(chain(*tables)):
                if not picture.size and (product.image is not None or product.broken is not None):
                    self.broken.add(product.key, product.broken or "does not decode")
                # A picture that has no region shows itself twice.
                shown = np.broadcast_to(picture[-self._views :], blank.shape) if picture.size else blank
                file.write(shown.tobytes())
                has_image.append(bool(picture.size))
                texts.append(product.texts)
            file.flush()
            shape = (len(texts), *blank.shape)
            pixels = np.memmap(file, np.uint8, "r", shape=shape) if texts else np.zeros(shape, np.uint8)
        return RawTable(texts, pixels, np.array(has_image, bool))

    def shards(self, batches: Iterable[list[Product]]) -> Iterator[tuple[list[str], RawTable]]:
        """The products batch by batch."""
        for products in batches:
            yield [product.key for product in products], self.table([products])

    def _decoded(self, batches: Iterable[list[Product]]) -> Iterator[tuple[Product, np.ndarray]]:
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            for products in batches:
                regions = [self._views == 2] * len(products)
                yield from zip(products, pool.map(decode_pixels, products, regions), strict=True)
