"""Products as two towers want them: pixels for one, word pieces for the other.

Shapes: B products, V pictures of the batch (of a product the whole one, then its core region), W products
that have words, T word pieces.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from encoders.products import Aspect, Product, View
from encoders.raw_products import decode_views, in_threads, shown

SIGLIP = ("siglip", "siglip2")
# Between two aspects; a caption, which is what the towers know, is made of sentences.
_STOP, _SPACE = ".", " "
# The order in which aspects are read, until the tokenizer's limit: what tells most about a product first.
_ORDER = (Aspect.TITLE, Aspect.CATEGORY, Aspect.ATTRIBUTES, Aspect.DESCRIPTION)
# Longer side over shorter one, of pictures as the processor gets them.
_LONGEST = 20
# A fast tokenizer keeps padding and truncation as state, which two threads may not set at once.
_TOKENIZING = threading.Lock()


@dataclass(frozen=True)
class DualBatch:
    """B products: the inputs of the image tower and of the text tower, and whose they are.

    Attributes:
        rows: B.
        pictures: keyword arguments of `get_image_features`, V rows each; empty without any picture.
        owner_V: which product a picture belongs to.
        words: keyword arguments of `get_text_features`, W rows each; empty without any words.
        owner_W: which product a text belongs to.
        aspect_WT: the aspect of every word piece; special tokens and padding count as title.
        mask_WT: false for word pieces that no other one looks at, which need no expert.
    """

    rows: int
    pictures: dict[str, Tensor]
    owner_V: Tensor
    words: dict[str, Tensor]
    owner_W: Tensor
    aspect_WT: Tensor
    mask_WT: Tensor

    def __len__(self) -> int:
        return self.rows

    def to(self, device: torch.device | str) -> DualBatch:
        """The same batch on another device."""
        return DualBatch(
            rows=self.rows,
            pictures={name: value.to(device) for name, value in self.pictures.items()},
            owner_V=self.owner_V.to(device),
            words={name: value.to(device) for name, value in self.words.items()},
            owner_W=self.owner_W.to(device),
            aspect_WT=self.aspect_WT.to(device),
            mask_WT=self.mask_WT.to(device),
        )

    def is_empty_B(self) -> Tensor:
        """True for products with neither a picture nor words."""
        empty_B = torch.ones(self.rows, dtype=torch.bool, device=self.owner_V.device)
        return empty_B.index_fill(0, self.owner_V, False).index_fill(0, self.owner_W, False)


class DualReader:
    """Turns products into `DualBatch`es, with the checkpoint's own tokenizer and picture processor.

    Args:
        family: the checkpoint's model type; the SigLIP kinds read texts padded to a fixed length, unmasked
            and in lower case, as they were trained.
        tokenizer: of Hugging Face, for the text tower.
        processor: of Hugging Face (a PIL one), for the image tower.
        text_length: the most word pieces that the text tower takes.
        regions: whether core regions are cut out.
    """

    def __init__(
        self, *, family: str, tokenizer: Any, processor: Any, text_length: int, regions: bool
    ) -> None:
        self.tokenizer = tokenizer
        self.processor = processor
        self._fixed = family in SIGLIP
        self._text_length = text_length
        self._regions = regions
        self._side = _picture_side(processor)

    def collate(self, products: list[Product], view: View) -> DualBatch:
        """A batch of what `view` shows of these products; pictures are read in parallel."""
        products = [shown(product, view) for product in products]
        pictures = in_threads(self._read_pictures, products)
        owner_V = np.repeat(np.arange(len(products)), [len(one) for one in pictures])
        owner_W = np.flatnonzero([bool(product.texts) for product in products])
        flat = [picture for one in pictures for picture in one]
        words, aspect_WT, mask_WT = self._read_words([products[row] for row in owner_W])
        return DualBatch(
            rows=len(products),
            pictures={name: torch.cat([one[name] for one in flat]) for name in (flat[0] if flat else ())},
            owner_V=torch.from_numpy(owner_V.astype(np.int64)),
            words=words,
            owner_W=torch.from_numpy(owner_W.astype(np.int64)),
            aspect_WT=aspect_WT,
            mask_WT=mask_WT,
        )

    def _read_pictures(self, product: Product) -> list[dict[str, Tensor]]:
        return [self._pixels(one) for one in decode_views(product, self._side, regions=self._regions)]

    def _pixels(self, picture: Image.Image) -> dict[str, Tensor]:
        return dict(self.processor(images=[_less_narrow(picture)], return_tensors="pt"))

    def _read_words(self, products: list[Product]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        if not products:
            nothing = torch.zeros(0, 0, dtype=torch.long)
            return {}, nothing, nothing.bool()
        texts, spans = zip(*[self._join(product) for product in products], strict=True)
        with _TOKENIZING:
            read = self.tokenizer(
                list(texts),
                truncation=True,
                max_length=self._text_length,
                padding="max_length" if self._fixed else "longest",
                padding_side="right",
                return_tensors="pt",
                return_attention_mask=True,
                return_offsets_mapping=self.tokenizer.is_fast,
            )
        words, mask_WT = {"input_ids": read["input_ids"]}, read["attention_mask"].bool()
        if self._fixed:
            mask_WT = torch.ones_like(mask_WT)
        else:
            words["attention_mask"] = read["attention_mask"]
        if not self.tokenizer.is_fast:
            return words, torch.full(mask_WT.shape, int(Aspect.TITLE)), mask_WT
        return words, _aspects(read["offset_mapping"].numpy(), spans), mask_WT

    def _join(self, product: Product) -> tuple[str, list[tuple[int, Aspect]]]:
        """The text of a product, and at which character each of its aspects ends, its full stop included."""
        text, ends = "", []
        for aspect, part in sorted(product.texts, key=lambda one: _ORDER.index(one[0])):
            text += (_STOP + _SPACE if text else "") + (part.lower() if self._fixed else part)
            ends.append((len(text) + len(_STOP), aspect))
        return text, ends


def _aspects(offsets_WT2: np.ndarray, ends: tuple[list[tuple[int, Aspect]], ...]) -> Tensor:
    """Aspects (W, T) of word pieces by where they stand in their text; special ones stand nowhere."""
    start_WT, stop_WT = offsets_WT2[..., 0], offsets_WT2[..., 1]
    aspect_WT = np.full(start_WT.shape, int(Aspect.TITLE), np.int64)
    for row, of_row in enumerate(ends):
        limits, aspects = zip(*of_row, strict=True)
        part_T = np.searchsorted(np.array(limits[:-1]), start_WT[row], side="right")
        aspect_WT[row] = np.array(aspects, np.int64)[part_T]
    return torch.from_numpy(np.where(stop_WT > start_WT, aspect_WT, int(Aspect.TITLE)))


def _less_narrow(picture: Image.Image) -> Image.Image:
    """The middle of a picture of extreme proportions: CLIP brings the shorter side to 224 pixels before it
    cuts a square, which makes gigabytes of a line one pixel wide."""
    width, height = picture.size
    keep_x, keep_y = min(width, _LONGEST * height), min(height, _LONGEST * width)
    left, top = (width - keep_x) // 2, (height - keep_y) // 2
    return picture.crop((left, top, left + keep_x, top + keep_y))


def _picture_side(processor: Any) -> int:
    """The larger side of the pictures that the tower sees; large JPEGs are decoded no finer than it needs."""
    if hasattr(processor, "max_num_patches"):
        return int(processor.patch_size * math.isqrt(processor.max_num_patches))
    return int(max(side for side in dict(processor.size).values() if side))
