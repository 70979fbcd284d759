"""Whether a picture shows its item: under an encoder, it must fit the item better than other items' pictures.

MOON2.0 (https://arxiv.org/abs/2511.12449) drops edited pictures by a CLIP score of picture and title. Cosines
of another encoder have another range, and the two towers of one that was never trained on pairs have none in
common. So a picture is ranked here, among the pictures of a sample of other items, by its cosine with an
anchor: its agreement is the share of them that are farther from the anchor. The sample also tells what the
anchor is: the item's title where the encoder knows own pictures from others' by it, else the item's own
picture.

Shapes: S items of the sample, N items, V pictures, E embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from encoders.catalogue_parts import PartReader
from encoders.encoder import Encoder
from encoders.encoding import encode
from encoders.encoding_stream import encode_stream
from encoders.products import IMAGE_ONLY, TITLE_ONLY, Aspect, Product, View
from encoders.raw_products import shown
from moonrec.tables import Table

# Ours: enough that a share of a hundredth can be told, few enough that they are encoded in seconds.
SAMPLE_ROWS = 256
_RUN_ROWS = 8
# How often, of two pictures, the own one must be nearer to the title. Ours: an encoder that was never trained
# on pairs is near 0.5, one that was is above 0.9.
ALIGNED = 0.8
_FEWEST_TO_TELL = 8


@dataclass(frozen=True)
class Judgement:
    """The agreement of an item's own picture and of each of its variants, in [0, 1], and which of them stand.

    `own` is None for an item whose own picture cannot be used: none of its variants is judged.
    """

    own: float | None
    variants: tuple[float, ...]
    stand: tuple[bool, ...]


class Agreement:
    """Judges pictures by an encoder.

    Args:
        encoder: in evaluation mode, on `device`.
        device: where it computes.
        sample: some items of the catalogue, with pictures as far as they have any.
        minimum: the agreement that a picture needs, in [0, 1]. With titles as anchors it needs no more than
            the item's own picture has.
        calibrate: whether the encoder is new and has to be fitted to the sample first.
    """

    def __init__(
        self,
        encoder: Encoder,
        device: torch.device,
        sample: Sequence[Product],
        minimum: float,
        *,
        calibrate: bool = False,
    ) -> None:
        self._encoder = encoder
        self._device = device
        self._preparer = encoder.preparer(None, device)
        self._minimum = minimum
        table = self._preparer.table([list(sample)])
        if calibrate:
            encoder.calibrate(table)
        rows = np.flatnonzero(table.has_image())
        self._sample = [sample[row] for row in rows.tolist()]
        self._pictures_SE, _ = encode(encoder, table, device=device, view=IMAGE_ONLY, rows=rows)
        titles_SE, wordless_S = encode(encoder, table, device=device, view=TITLE_ONLY, rows=rows)
        self.accuracy = self._title_accuracy(titles_SE, ~wordless_S)
        self.anchor = "title" if (self.accuracy or 0.0) >= ALIGNED else "picture"

    def fingerprint(self) -> str:
        """A digest of the encoder, as it is after it was fitted to the sample."""
        return self._encoder.fingerprint()

    def judge(self, products: Sequence[Product], variants: Sequence[Sequence[bytes]]) -> list[Judgement]:
        """Judge the pictures (encoded files) that were made for each product."""
        counts = np.array([len(of_one) for of_one in variants], np.int64)
        made = [Product(one.key, data, ()) for one, of in zip(products, variants, strict=True) for data in of]
        own_NE, has_own_N = self._encoded(products, IMAGE_ONLY)
        made_VE, usable_V = self._encoded(made, IMAGE_ONLY)
        anchor_NE = self._anchors(products, own_NE)
        owner_V = np.repeat(np.arange(len(products)), counts)
        comparable_NS = self._comparable(products)
        score_NS = anchor_NE @ self._pictures_SE.T
        own_N = _share_below(score_NS, comparable_NS, (anchor_NE * own_NE).sum(1))
        made_V = _share_below(
            score_NS[owner_V], comparable_NS[owner_V], (anchor_NE[owner_V] * made_VE).sum(1)
        )
        stands_V = usable_V & (made_V >= np.minimum(self._minimum, own_N)[owner_V])
        ends = np.cumsum(counts)[:-1]
        return [
            Judgement(float(own) if has else None, tuple(shares.tolist()), tuple((stand & has).tolist()))
            for own, has, shares, stand in zip(
                own_N, has_own_N, np.split(made_V, ends), np.split(stands_V, ends), strict=True
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "anchor": self.anchor,
            "title_accuracy": self.accuracy,
            "sample": len(self._sample),
            "minimum": self._minimum,
        }

    def _anchors(self, products: Sequence[Product], own_NE: np.ndarray) -> np.ndarray:
        if self.anchor == "picture":
            return own_NE
        titles_NE, has_title_N = self._encoded(products, TITLE_ONLY)
        return np.where(has_title_N[:, None], titles_NE, own_NE)

    def _title_accuracy(self, titles_SE: np.ndarray, has_title_S: np.ndarray) -> float | None:
        """How often a sample's own picture is nearer to its title than another's; None if too few tell."""
        rows = np.flatnonzero(has_title_S)
        if len(rows) < _FEWEST_TO_TELL:
            return None
        score_NS = titles_SE[rows] @ self._pictures_SE.T
        comparable_NS = self._comparable([self._sample[row] for row in rows.tolist()])
        own_N = score_NS[np.arange(len(rows)), rows]
        return float(_share_below(score_NS, comparable_NS, own_N).mean())

    def _comparable(self, products: Sequence[Product]) -> np.ndarray:
        """Which pictures of the sample (N, S) are of another thing: another title and another picture."""
        titles_N, pictures_N = _identities(products)
        titles_S, pictures_S = _identities(self._sample)
        return (titles_N[:, None] != titles_S) & (pictures_N[:, None] != pictures_S)

    def _encoded(self, products: Sequence[Product], view: View) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (N, E) of what `view` shows, zero where that is nothing, and where it is something (N,)."""
        # Hidden ahead: no picture goes through a tower for the words beside it.
        visible = [shown(product, view) for product in products]
        stream = encode_stream(self._encoder, self._preparer, [visible], device=self._device, view=view)
        shards = list(stream)
        empty = np.zeros((0, self._encoder.config.dim), np.float32)
        vectors_NE = np.concatenate([empty, *(shard.vectors for shard in shards)])
        return vectors_NE, ~np.concatenate([np.zeros(0, bool), *(shard.empty for shard in shards)])


def sample_of(items: Table) -> list[Product]:
    """Up to 256 items in short runs that are spread evenly over a catalogue."""
    count = items.count_rows()
    if count <= SAMPLE_ROWS:
        parts = [range(count)]
    else:
        starts = np.linspace(0, count - _RUN_ROWS, SAMPLE_ROWS // _RUN_ROWS).astype(int).tolist()
        parts = [range(start, start + _RUN_ROWS) for start in starts]
    return [product for batch in PartReader(items, parts).batches() for product in batch]


def _identities(products: Sequence[Product]) -> tuple[np.ndarray, np.ndarray]:
    """Per product a number for its title (its id, without one) and a number for its picture."""
    titles = [dict(one.texts).get(Aspect.TITLE, "").casefold() or f"\0{one.key}" for one in products]
    pictures = [one.image or one.key.encode() for one in products]
    return _numbers([title.encode() for title in titles]), _numbers(pictures)


def _numbers(values: Sequence[bytes]) -> np.ndarray:
    """64 bits of the SHA-256 of each value."""
    return np.array([int.from_bytes(hashlib.sha256(value).digest()[:8]) for value in values], np.uint64)


def _share_below(score_VS: np.ndarray, counted_VS: np.ndarray, own_V: np.ndarray) -> np.ndarray:
    """The share of the counted scores of each row that are below `own_V`, equal ones by half.

    1 where none is counted.
    """
    total_V = counted_VS.sum(1)
    below_V = ((score_VS < own_V[:, None]) & counted_VS).sum(1)
    below_V = below_V + ((score_VS == own_V[:, None]) & counted_VS).sum(1) / 2
    return np.where(total_V == 0, 1.0, below_V / np.maximum(total_V, 1))
