"""A stream of products to vectors: pictures are read and decoded while the encoder computes.

Three things happen at once: a background thread reads products ahead (`read_ahead`), the preparer decodes
ahead or runs its own models, and another thread gathers the next batch while the encoder works on this one.
Batches are cut from a shard in the order of length, so that little of a batch is padding. What a shard's
vectors are depends on the shard alone, not on what came before it.

Shapes: N products of a shard, B products of a batch, E embedding width.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from encoders.encoder import Encoder, Preparer, ProductBatch, ProductTable
from encoders.precision import autocast
from encoders.products import EVERYTHING, Product, View
from encoders.raw_products import ahead

# Ours: a quarter of a shard, so that only products of about the same length share a batch.
BATCH_ROWS = 64

T = TypeVar("T")


class Cost:
    """What encoding took, summed up over shards.

    Attributes:
        seconds: from asking for the first shard to the last vector.
        waited: those of them in which nothing was computed, since products were still read or decoded.
        tokens: about so many of the products' own; `padded` is what batches were filled up with.
    """

    def __init__(self, seconds: float = 0.0, waited: float = 0.0, tokens: int = 0, padded: int = 0) -> None:
        self.seconds, self.waited, self.tokens, self.padded = seconds, waited, tokens, padded

    def __iadd__(self, other: Cost) -> Cost:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    @property
    def padding_share(self) -> float:
        """Padding among all tokens of the batches, in [0, 1]."""
        return self.padded / max(1, self.tokens + self.padded)

    @property
    def decode_wait_share(self) -> float:
        """Share of the time in which the computation waited for products, in [0, 1]."""
        return self.waited / self.seconds if self.seconds else 0.0


class EncodedShard:
    """A shard of products and their vectors, which arrive batch by batch.

    Attributes:
        vectors: unit vectors (N, E) float32, zero for products of which nothing is shown.
        empty: which products (N,) those are.
        has_image: which products (N,) have a usable picture.
    """

    def __init__(self, table: ProductTable, width: int) -> None:
        self.table = table
        self.vectors = np.zeros((len(table), width), np.float32)
        self.empty = np.zeros(len(table), bool)
        self.has_image = table.has_image()
        self._missing = len(table)

    def add(self, rows: np.ndarray, vectors: np.ndarray, empty: np.ndarray) -> None:
        """Take the vectors (B, E) of the products at `rows` (B,)."""
        self.vectors[rows], self.empty[rows] = vectors, empty
        self._missing -= len(rows)

    @property
    def is_complete(self) -> bool:
        """Whether all vectors have arrived."""
        return self._missing == 0


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, the next one made in a background thread while the caller works on this one."""
    source = iter(items)
    for found in ahead(lambda _: list(islice(source, 1)), repeat(None)):
        if not found:
            return
        yield from found


@torch.inference_mode()
def encode_stream(
    encoder: Encoder,
    preparer: Preparer,
    batches: Iterable[list[Product]],
    *,
    device: torch.device,
    view: View = EVERYTHING,
    cost: Cost | None = None,
) -> Iterator[EncodedShard]:
    """Vectors of all products, shard by shard, in their order; memory does not grow with their number.

    Args:
        encoder: in evaluation mode, on `device`.
        preparer: what makes the encoder's tables.
        batches: the products.
        device: where to compute.
        view: which aspects are shown.
        cost: what this took is added here.
    """
    cost = Cost() if cost is None else cost
    computed_before = _computed(preparer)
    parts = ahead(lambda part: _gathered(part, view), _plan(encoder, preparer, batches, cost))
    while True:
        begun = time.perf_counter()
        part = next(parts, None)
        arrived = time.perf_counter()
        cost.waited += arrived - begun
        if part is None:
            break
        part.shard.add(part.rows, *_encoded(encoder, part.batch, device))
        cost.seconds += time.perf_counter() - begun
        if part.shard.is_complete:
            yield part.shard
    # What the preparer's own models computed was no waiting.
    cost.waited = max(0.0, cost.waited - (_computed(preparer) - computed_before))


class _Gathered(NamedTuple):
    shard: EncodedShard
    rows: np.ndarray
    batch: ProductBatch


def _plan(
    encoder: Encoder, preparer: Preparer, batches: Iterable[list[Product]], cost: Cost
) -> Iterator[tuple[EncodedShard, np.ndarray]]:
    for _, table in preparer.shards(batches):
        shard = EncodedShard(table, encoder.config.dim)
        lengths = table.lengths()
        by_length = np.argsort(lengths, kind="stable")
        for rows in np.split(by_length, range(BATCH_ROWS, len(table), BATCH_ROWS)):
            tokens = int(lengths[rows].sum())
            cost.tokens += tokens
            cost.padded += int(lengths[rows[-1]]) * len(rows) - tokens
            yield shard, rows


def _gathered(part: tuple[EncodedShard, np.ndarray], view: View) -> _Gathered:
    shard, rows = part
    return _Gathered(shard, rows, shard.table.gather(rows, view))


def _encoded(encoder: Encoder, batch: ProductBatch, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    with autocast(device):
        vectors_BE = encoder(batch.to(device))
    return vectors_BE.float().cpu().numpy(), batch.is_empty_B().cpu().numpy()


def _computed(preparer: Preparer) -> float:
    """Seconds that models of the preparer's own (towers) have taken so far; most preparers have none."""
    return float(getattr(preparer, "compute_seconds", 0.0))
