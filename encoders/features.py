"""Token features of products: computed by the towers once, kept on disk, gathered into training batches.

The cache is addressed by content: a shard of 256 products is named by a digest of the towers' weights and of
what the products hold, so that a changed picture is recomputed, an unchanged catalogue never is, and a killed
job finds every finished shard. Shards are plain arrays, opened as memory maps.

Shapes: B products, G grid cells, T text tokens, C tower channels.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from encoders.precision import autocast, has_fast_bf16
from encoders.products import BrokenImages, Product
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
from moonrec.atomic import atomic_folder, storage_errors
from moonrec.errors import UserError
from moonrec.images import BrokenImage, decode_image

SHARD_ROWS = 256
# To be raised when the same products come to have other features or another layout on disk.
_FORMAT = 1
_COMPUTE_ROWS = 64
_SHARD_BYTES = SHARD_ROWS * 2 * (GRID * GRID * IMAGE_CHANNELS + 24 * TEXT_CHANNELS)
_ARRAYS = ("image", "has_image", "text", "aspect", "offsets")


@dataclass(frozen=True)
class FeatureBatch:
    """Features of B products, padded: `image_BGC` is zero where `has_image_B` is false, likewise the text."""

    image_BGC: Tensor
    has_image_B: Tensor
    text_BTC: Tensor
    aspect_BT: Tensor
    text_mask_BT: Tensor

    def to(self, device: torch.device | str) -> FeatureBatch:
        """The same batch on another device."""
        return FeatureBatch(*(value.to(device) for value in vars(self).values()))

    def hide(self, *, image: np.ndarray, text: np.ndarray) -> FeatureBatch:
        """The batch without the picture, or the words, of the products where `image`, `text` (B,) say so."""
        device = self.has_image_B.device
        show_image_B = torch.from_numpy(~image).to(device)
        show_text_B = torch.from_numpy(~text).to(device)
        return replace(
            self,
            has_image_B=self.has_image_B & show_image_B,
            text_mask_BT=self.text_mask_BT & show_text_B[:, None],
        )

    def only(self, modality: str) -> FeatureBatch:
        """The batch as one modality shows it: `image`, `text` or `multimodal` (all there is)."""
        rows = len(self.has_image_B)
        return self.hide(image=np.full(rows, modality == "text"), text=np.full(rows, modality == "image"))

    def is_empty_B(self) -> Tensor:
        """True for products of which nothing is left to encode."""
        return ~(self.has_image_B | self.text_mask_BT.any(1))


@dataclass(frozen=True)
class Shard:
    """Features of up to 256 products as arrays; `offsets` says which text tokens belong to which product."""

    image: np.ndarray
    has_image: np.ndarray
    text: np.ndarray
    aspect: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.has_image)

    def save(self, folder: Path) -> None:
        """Write the arrays into `folder`, atomically."""
        with atomic_folder(folder) as temporary:
            for name in _ARRAYS:
                np.save(temporary / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def open(cls, folder: Path) -> Shard | None:
        """Memory-map a saved shard; None when it is not there or is damaged (it is computed again)."""
        try:
            return cls(*(_map_array(folder / f"{name}.npy") for name in _ARRAYS))
        except (FileNotFoundError, ValueError, TypeError, EOFError):
            return None


def _map_array(path: Path) -> np.ndarray:
    """Memory-map a `.npy` file and close it: there are more shards than a process may have files open."""
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        start = stream.tell()
    bytes_ = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    return bytes_.numpy()[start:].view(dtype).reshape(shape)


class ProductFeatures(Protocol):
    """Features of a table of products by row, wherever they come from."""

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray) -> FeatureBatch:
        """The products at `rows` (B,) as one padded batch."""

    def text_lengths(self) -> np.ndarray:
        """Number of text tokens per product, for batching by length."""


class FeatureTable:
    """Features of a whole table of products, in its order; rows are gathered from memory-mapped shards."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = list(shards)
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __add__(self, other: FeatureTable) -> FeatureTable:
        return FeatureTable(self._shards + other._shards)

    def gather(self, rows: np.ndarray) -> FeatureBatch:
        """The products at `rows` (B,) as one padded batch."""
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        places = list(zip(shard_of.tolist(), (rows - self._starts[shard_of]).tolist(), strict=True))
        spans = [self._shards[s].offsets[i : i + 2].tolist() for s, i in places]
        width = max((stop - start for start, stop in spans), default=0)
        image_BGC = np.zeros((len(rows), GRID * GRID, IMAGE_CHANNELS), np.float16)
        text_BTC = np.zeros((len(rows), width, TEXT_CHANNELS), np.float16)
        aspect_BT = np.zeros((len(rows), width), np.uint8)
        mask_BT = np.zeros((len(rows), width), bool)
        has_image_B = np.zeros(len(rows), bool)
        for b, ((s, i), (start, stop)) in enumerate(zip(places, spans, strict=True)):
            shard = self._shards[s]
            image_BGC[b] = shard.image[i]
            has_image_B[b] = shard.has_image[i]
            text_BTC[b, : stop - start] = shard.text[start:stop]
            aspect_BT[b, : stop - start] = shard.aspect[start:stop]
            mask_BT[b, : stop - start] = True
        arrays = (image_BGC, has_image_B, text_BTC, aspect_BT, mask_BT)
        return FeatureBatch(*(torch.from_numpy(array) for array in arrays))

    def has_image(self) -> np.ndarray:
        """Which products (N,) have a usable picture."""
        return np.concatenate([shard.has_image for shard in self._shards] or [np.zeros(0, bool)])

    def text_lengths(self) -> np.ndarray:
        """Number of text tokens per product, for batching by length."""
        return np.concatenate([np.diff(shard.offsets) for shard in self._shards] or [np.zeros(0, np.int64)])


class Featurizer:
    """Runs the towers over products, shard by shard, through the cache.

    Args:
        towers: the towers to run; moved to `device`.
        fingerprint: of the towers' weights; part of the cache's key.
        cache: folder of the cache; None keeps every shard in memory only.
        device: where the towers run.
    """

    def __init__(self, *, towers: Towers, fingerprint: str, cache: Path | None, device: torch.device) -> None:
        self._towers = towers.to(device)
        arithmetic = "bf16" if has_fast_bf16(device) else "fp32"
        key = f"{_FORMAT}/{fingerprint}/{tokens_plan()}/{SHARD_ROWS}/{device.type}/{arithmetic}"
        self._key = hashlib.sha256(key.encode()).digest()
        self._cache = cache
        self._device = device
        self._threads = max(2, os.cpu_count() or 2)
        self.broken = BrokenImages()

    def table(self, batches: Iterable[list[Product]]) -> FeatureTable:
        """Features of all products; shards stay on disk where there is a cache."""
        return FeatureTable([shard for _, shard in self.shards(batches)])

    def shards(self, batches: Iterable[list[Product]]) -> Iterator[tuple[list[str], Shard]]:
        """Features shard by shard, with the products' keys; pictures are decoded ahead, in parallel."""
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[tuple[list[Product], Path | None, Shard | list[Future[np.ndarray]]]] = deque()
            for products in _regroup(batches, SHARD_ROWS):
                folder = self._folder_of(products)
                known = None if folder is None else Shard.open(folder)
                waiting.append((products, folder, known or [pool.submit(decode_pixels, p) for p in products]))
                if len(waiting) > 1:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())

    def _finish(
        self, products: list[Product], folder: Path | None, work: Shard | list[Future[np.ndarray]]
    ) -> tuple[list[str], Shard]:
        shard = work if isinstance(work, Shard) else self._compute(products, [f.result() for f in work])
        self._count_broken(products, shard.has_image)
        if folder is not None and not isinstance(work, Shard):
            self._save(shard, folder)
            shard = Shard.open(folder) or shard
        return [product.key for product in products], shard

    def _save(self, shard: Shard, folder: Path) -> None:
        free = shutil.disk_usage(folder.parent).free
        if free < 4 * _SHARD_BYTES:
            raise UserError(
                f"{folder.parent}: only {free / 2**20:.0f} MiB free, and the features of 1,000 products take "
                f"about {_SHARD_BYTES / SHARD_ROWS * 1000 / 2**20:.0f} MiB; free some space, name another "
                "folder with --cache, or use --no-cache"
            )
        shard.save(folder)

    def _folder_of(self, products: list[Product]) -> Path | None:
        if self._cache is None:
            return None
        hasher = hashlib.sha256(self._key)
        for product in products:
            hasher.update(product.digest())
        name = hasher.hexdigest()
        folder = self._cache / name[:2] / name[2:34]
        with storage_errors(self._cache):
            folder.parent.mkdir(parents=True, exist_ok=True)
        return folder

    def _count_broken(self, products: list[Product], has_image: np.ndarray) -> None:
        for product, usable in zip(products, has_image.tolist(), strict=True):
            if product.broken is not None:
                self.broken.add(product.key, product.broken)
            elif product.image is not None and not usable:
                self.broken.add(product.key, "does not decode")

    def _compute(self, products: list[Product], pixels: list[np.ndarray]) -> Shard:
        rows = len(products)
        has_image = np.array([array.size > 0 for array in pixels], bool)
        image = np.zeros((rows, GRID * GRID, IMAGE_CHANNELS), np.float16)
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
            hidden = self._run_text(words)
            for row, i in enumerate(part):
                length = int(words.mask_BT[row].sum())
                texts[i] = hidden[row, :length]
                aspects[i] = words.aspect_BT[row, :length].numpy().astype(np.uint8)
        offsets = np.cumsum([0] + [len(text) for text in texts])
        return Shard(image, has_image, np.concatenate(texts), np.concatenate(aspects), offsets)

    @torch.inference_mode()
    def _run_image(self, pixels: list[np.ndarray]) -> np.ndarray:
        with autocast(self._device):
            tokens = self._towers.image(torch.from_numpy(np.stack(pixels)).to(self._device))
        return tokens.float().cpu().numpy().astype(np.float16)

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


def decode_pixels(product: Product) -> np.ndarray:
    """The product's picture as (H, W, 3) uint8 of the towers' size; empty when none can be had."""
    if product.image is None:
        return np.zeros(0, np.uint8)
    try:
        picture = decode_image(product.image, draft_size=IMAGE_SIZE)
    except BrokenImage:
        return np.zeros(0, np.uint8)
    return np.asarray(picture.resize((IMAGE_SIZE, IMAGE_SIZE)))


def _regroup(batches: Iterable[list[Product]], size: int) -> Iterator[list[Product]]:
    group: list[Product] = []
    for batch in batches:
        group += batch
        while len(group) >= size:
            yield group[:size]
            group = group[size:]
    if group:
        yield group
