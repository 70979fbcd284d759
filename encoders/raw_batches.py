"""For `--train-towers`: raw products by row, so that the towers run, and learn, inside the training step.

Shapes: B products, H and W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from encoders.features import FeatureBatch, decode_pixels
from encoders.precision import autocast
from encoders.products import Aspect, BrokenImages, Product
from encoders.towers import GRID, IMAGE_CHANNELS, IMAGE_SIZE, Towers, Words, tokenize


@dataclass(frozen=True)
class RawBatch:
    """Pixels of the products that have a picture, and the words of all."""

    pixels_PHW3: Tensor
    has_image_B: Tensor
    words: Words

    def to(self, device: torch.device | str) -> RawBatch:
        """The same batch on another device."""
        words = Words(*(value.to(device) for value in vars(self.words).values()))
        return RawBatch(self.pixels_PHW3.to(device), self.has_image_B.to(device), words)


def run_towers(towers: Towers, raw: RawBatch) -> FeatureBatch:
    """Features of raw products, with gradients where the towers want them."""
    batch = len(raw.has_image_B)
    image_BGC = torch.zeros(batch, GRID * GRID, IMAGE_CHANNELS, device=raw.has_image_B.device)
    if len(raw.pixels_PHW3):
        shown = torch.nonzero(raw.has_image_B).squeeze(1)
        image_BGC = image_BGC.index_copy(0, shown, towers.image(raw.pixels_PHW3).float())
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

    @classmethod
    def build(cls, batches: Iterable[list[Product]], rows: int, path: Path, broken: BrokenImages) -> RawTable:
        """Decode every picture once into a file at `path` (150 kB a product) that ends with the process."""
        shape = (rows, IMAGE_SIZE, IMAGE_SIZE, 3)
        pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        path.unlink()  # the map stays; nothing is left in the run folder, whatever happens
        has_image = np.zeros(rows, bool)
        texts: list[tuple[tuple[Aspect, str], ...]] = []
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            for products in batches:
                for product, picture in zip(products, pool.map(decode_pixels, products), strict=True):
                    if picture.size:
                        pixels[len(texts)] = picture
                        has_image[len(texts)] = True
                    elif product.image is not None or product.broken is not None:
                        broken.add(product.key, product.broken or "does not decode")
                    texts.append(product.texts)
        return cls(texts, pixels, has_image)

    def gather(self, rows: np.ndarray) -> RawBatch:
        """The products at `rows` (B,)."""
        has_image_B = self._has_image[rows]
        pixels_PHW3 = torch.from_numpy(np.ascontiguousarray(self._pixels[rows[has_image_B]]))
        return RawBatch(
            pixels_PHW3, torch.from_numpy(has_image_B), tokenize([self._texts[row] for row in rows])
        )


class LiveFeatures:
    """Features of a raw table as the towers see it right now, for validation during `--train-towers`."""

    def __init__(self, raw: RawTable, towers: Towers, device: torch.device) -> None:
        self._raw = raw
        self._towers = towers
        self._device = device

    def __len__(self) -> int:
        return len(self._raw)

    def gather(self, rows: np.ndarray) -> FeatureBatch:
        """The products at `rows` (B,) through the towers."""
        with torch.inference_mode(), autocast(self._device):
            return run_towers(self._towers, self._raw.gather(rows).to(self._device))

    def text_lengths(self) -> np.ndarray:
        """Unknown before the towers ran: all alike."""
        return np.zeros(len(self._raw), np.int64)
