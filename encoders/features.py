"""Token features of products: computed by the towers once, kept on disk, gathered into training batches.

The cache is addressed by content: a shard of 256 products is named by a digest of the towers' weights and of
what the products hold, so that a changed picture is recomputed, an unchanged catalogue never is, and a killed
job finds every finished shard. A shard is one file of plain arrays, opened as a memory map: about 16 million
products can be open at once before the limit of the system (`vm.max_map_count`) has to be raised.

Shapes: B products, G grid cells, T text tokens, C tower channels.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from encoders.feature_shards import Shard
from encoders.precision import autocast, has_fast_bf16
from encoders.products import EVERYTHING, TEXT_ONLY, Aspect, BrokenImages, Product, View
from encoders.raw_products import regroup
from encoders.towers import (
    GRID,
    IMAGE_CHANNELS,
    IMAGE_SIZE,
    TEXT_CHANNELS,
    Towers,
    Words,
    tokenize,
    tokens_plan,
)
from moonrec.atomic import storage_errors
from moonrec.errors import UserError
from moonrec.images import BrokenImage, decode_image

SHARD_ROWS = 256
# To be raised when the same products come to have other features or another layout on disk.
_FORMAT = 3
_COMPUTE_ROWS = 64
_SHARD_BYTES = SHARD_ROWS * 2 * (2 * GRID * GRID * IMAGE_CHANNELS + 24 * TEXT_CHANNELS)


@dataclass(frozen=True)
class FeatureBatch:
    """Features of B products, padded: `image_BGC` is zero where `has_image_B` is false, likewise the text.

    G is the cells of the whole picture, then, for an encoder that looks at core regions, those of the crop;
    it is 0 where the batch does not show pictures.
    """

    image_BGC: Tensor
    has_image_B: Tensor
    text_BTC: Tensor
    aspect_BT: Tensor
    text_mask_BT: Tensor

    def __len__(self) -> int:
        return len(self.has_image_B)

    def to(self, device: torch.device | str) -> FeatureBatch:
        """The same batch on another device."""
        return FeatureBatch(*(value.to(device) for value in vars(self).values()))

    def is_empty_B(self) -> Tensor:
        """True for products of which nothing is there to encode."""
        return ~(self.has_image_B | self.text_mask_BT.any(1))


class FeatureTable:
    """Features of a whole table of products, in its order; rows are gathered from memory-mapped shards."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = list(shards)
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def gather(self, rows: np.ndarray, view: View = EVERYTHING) -> FeatureBatch:
        """The products at `rows` (B,) as one padded batch that shows the aspects in `view`."""
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        places = list(zip(shard_of.tolist(), (rows - self._starts[shard_of]).tolist(), strict=True))
        shown = [_tokens_of(self._shards[s], i, view) for s, i in places]
        width = max((len(aspects) for _, aspects in shown), default=0)
        cells = self._shards[0].image.shape[1] if Aspect.IMAGE in view and self._shards else 0
        image_BGC = np.zeros((len(rows), cells, IMAGE_CHANNELS), np.float16)
        has_image_B = np.zeros(len(rows), bool)
        text_BTC = np.zeros((len(rows), width, TEXT_CHANNELS), np.float16)
        aspect_BT = np.zeros((len(rows), width), np.uint8)
        mask_BT = np.zeros((len(rows), width), bool)
        for b, ((s, i), (tokens, aspects)) in enumerate(zip(places, shown, strict=True)):
            if cells:
                image_BGC[b] = self._shards[s].image[i]
                has_image_B[b] = self._shards[s].has_image[i]
            text_BTC[b, : len(aspects)] = tokens
            aspect_BT[b, : len(aspects)] = aspects
            mask_BT[b, : len(aspects)] = True
        arrays = (image_BGC, has_image_B, text_BTC, aspect_BT, mask_BT)
        return FeatureBatch(*(torch.from_numpy(array) for array in arrays))

    def has_image(self) -> np.ndarray:
        """Which products (N,) have a usable picture."""
        return np.concatenate([shard.has_image for shard in self._shards] or [np.zeros(0, bool)])

    def has_text(self) -> np.ndarray:
        """Which products (N,) have any words."""
        return self.lengths() > 0

    def lengths(self) -> np.ndarray:
        """Number of text tokens per product (N,), for batching by length; pictures all take the same."""
        return np.concatenate([np.diff(shard.offsets) for shard in self._shards] or [np.zeros(0, np.int64)])


def _tokens_of(shard: Shard, row: int, view: View) -> tuple[np.ndarray, np.ndarray]:
    """The text tokens (T, C) of one product that `view` shows, and their aspects (T,)."""
    start, stop = shard.offsets[row : row + 2].tolist()
    tokens, aspects = shard.text[start:stop], shard.aspect[start:stop]
    if view >= TEXT_ONLY:
        return tokens, aspects
    kept = np.isin(aspects, [int(aspect) for aspect in view])
    return tokens[kept], aspects[kept]


class Featurizer:
    """Runs the towers over products, shard by shard, through the cache.

    Args:
        towers: the towers to run; moved to `device`.
        fingerprint: of the towers' weights; part of the cache's key.
        cache: folder of the cache; None keeps every shard in memory only.
        device: where the towers run.
        regions: whether the core region's crop is featurized too.

    Attributes:
        broken: pictures that could not be used.
        compute_seconds: how long the towers have computed.
    """

    def __init__(
        self,
        *,
        towers: Towers,
        fingerprint: str,
        cache: Path | None,
        device: torch.device,
        regions: bool = False,
    ) -> None:
        self._towers = towers.to(device)
        self._regions = regions
        arithmetic = "bf16" if has_fast_bf16(device) else "fp32"
        key = f"{_FORMAT}/{fingerprint}/{tokens_plan()}/{SHARD_ROWS}/{device.type}/{arithmetic}/{regions}"
        self._key = hashlib.sha256(key.encode()).digest()
        self._cache = cache
        self._device = device
        self._threads = max(2, os.cpu_count() or 2)
        self.broken = BrokenImages()
        self.compute_seconds = 0.0

    def table(self, *tables: Iterable[list[Product]]) -> FeatureTable:
        """Features of all products, one table after the other; shards stay on disk where there is a cache.

        A shard ends with its table, so that the catalogue's are found again whatever was read behind it.
        """
        return FeatureTable([shard for batches in tables for _, shard in self._shards(batches)])

    def shards(self, batches: Iterable[list[Product]]) -> Iterator[tuple[list[str], FeatureTable]]:
        """Features shard by shard, with the products' keys."""
        for keys, shard in self._shards(batches):
            yield keys, FeatureTable([shard])

    def _shards(self, batches: Iterable[list[Product]]) -> Iterator[tuple[list[str], Shard]]:
        """Pictures are decoded ahead, in parallel, while the towers run."""
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[tuple[list[Product], Path | None, Shard | list[Future[np.ndarray]]]] = deque()
            for products in regroup(batches, SHARD_ROWS):
                place = self._place_of(products)
                known = None if place is None else Shard.open(place)
                decoded = [] if known else [pool.submit(decode_pixels, p, self._regions) for p in products]
                waiting.append((products, place, known or decoded))
                if len(waiting) > 1:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())

    def _finish(
        self, products: list[Product], place: Path | None, work: Shard | list[Future[np.ndarray]]
    ) -> tuple[list[str], Shard]:
        shard = work if isinstance(work, Shard) else self._timed(products, [f.result() for f in work])
        self._count_broken(products, shard.has_image)
        if place is not None and not isinstance(work, Shard):
            self._save(shard, place)
            shard = Shard.open(place) or shard
        return [product.key for product in products], shard

    def _timed(self, products: list[Product], pixels: list[np.ndarray]) -> Shard:
        begun = time.perf_counter()
        shard = self._compute(products, pixels)
        self.compute_seconds += time.perf_counter() - begun
        return shard

    def _save(self, shard: Shard, place: Path) -> None:
        free = shutil.disk_usage(place.parent).free
        if free < 4 * _SHARD_BYTES:
            raise UserError(
                f"{place.parent}: only {free / 2**20:.0f} MiB free, and the features of 1,000 products take "
                f"about {_SHARD_BYTES / SHARD_ROWS * 1000 / 2**20:.0f} MiB; free some space, name another "
                "folder with --cache, or use --no-cache"
            )
        shard.save(place)

    def _place_of(self, products: list[Product]) -> Path | None:
        if self._cache is None:
            return None
        hasher = hashlib.sha256(self._key)
        for product in products:
            hasher.update(product.digest())
        name = hasher.hexdigest()
        place = self._cache / name[:2] / f"{name[2:34]}.shard"
        with storage_errors(self._cache):
            place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _count_broken(self, products: list[Product], has_image: np.ndarray) -> None:
        for product, usable in zip(products, has_image.tolist(), strict=True):
            if product.broken is not None:
                self.broken.add(product.key, product.broken)
            elif product.image is not None and not usable:
                self.broken.add(product.key, "does not decode")

    def _compute(self, products: list[Product], pixels: list[np.ndarray]) -> Shard:
        rows = len(products)
        has_image = np.array([array.size > 0 for array in pixels], bool)
        views = 1 + self._regions
        image = np.zeros((rows, views * GRID * GRID, IMAGE_CHANNELS), np.float16)
        shown = np.flatnonzero(has_image)
        for at in range(0, len(shown), _COMPUTE_ROWS):
            part = shown[at : at + _COMPUTE_ROWS]
            image[part] = self._run_image([pixels[i] for i in part])
        texts: list[np.ndarray] = [np.zeros((0, TEXT_CHANNELS), np.float16)] * rows
        aspects: list[np.ndarray] = [np.zeros(0, np.uint8)] * rows
        by_length = np.argsort([sum(len(text) for _, text in p.texts) for p in products], kind="stable")
        for at in range(0, rows, _COMPUTE_ROWS):
            part = by_length[at : at + _COMPUTE_ROWS]
            words = tokenize([products[i].texts for i in part])
            if not words.mask_BT.any():
                continue
            hidden = self._run_text(words)
            for row, i in enumerate(part):
                length = int(words.mask_BT[row].sum())
                texts[i] = hidden[row, :length]
                aspects[i] = words.aspect_BT[row, :length].numpy().astype(np.uint8)
        offsets = np.cumsum([0] + [len(text) for text in texts])
        return Shard(image, has_image, np.concatenate(texts), np.concatenate(aspects), offsets)

    @torch.inference_mode()
    def _run_image(self, pixels: list[np.ndarray]) -> np.ndarray:
        """Pixels (V, H, W, 3) of B products to cells (B, G, C); two equal views are computed once."""
        rows = np.repeat(np.arange(len(pixels)), [len(views) for views in pixels])
        flat = torch.from_numpy(np.concatenate(pixels))
        with autocast(self._device):
            tokens = self._towers.image(flat.to(self._device))
        cells = tokens.float().cpu().numpy().astype(np.float16)
        first = np.searchsorted(rows, np.arange(len(pixels)))
        if not self._regions:
            return cells
        last = np.searchsorted(rows, np.arange(len(pixels)), side="right") - 1
        return np.concatenate([cells[first], cells[last]], 1)

    @torch.inference_mode()
    def _run_text(self, words: Words) -> np.ndarray:
        words = Words(*(value.to(self._device) for value in vars(words).values()))
        with autocast(self._device):
            tokens = self._towers.text(words)
        return tokens.float().cpu().numpy().astype(np.float16)


def default_cache() -> Path:
    """The folder of the feature cache: `$MOONREC_CACHE`, otherwise `moonrec` in the user's cache folder."""
    named = os.environ.get("MOONREC_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "moonrec"


def decode_pixels(product: Product, region: bool = False) -> np.ndarray:
    """The product's picture as (V, H, W, 3) uint8 of the towers' size; empty when none can be had.

    V is 1; with `region`, and where the product has a core region, 2: the whole picture, then the region.
    """
    if product.image is None:
        return np.zeros(0, np.uint8)
    box = product.region if region else None
    smallest = 1.0 if box is None else min(box[2] - box[0], box[3] - box[1])
    try:
        picture = decode_image(product.image, draft_size=round(IMAGE_SIZE / max(smallest, 0.1)))
    except BrokenImage:
        return np.zeros(0, np.uint8)
    size = (IMAGE_SIZE, IMAGE_SIZE)
    views = [picture.resize(size)]
    if box is not None:
        sides = (picture.width, picture.height) * 2
        x0, y0, x1, y1 = (min(share * side, side) for share, side in zip(box, sides, strict=True))
        views.append(picture.resize(size, box=(x0, y0, x1, y1)))
    return np.stack([np.asarray(view) for view in views])
