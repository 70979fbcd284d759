"""Batches of token sequences with pictures among them, padded on the right or on the left.

Shapes: B products, T tokens, V vision patches of all pictures of the batch, I pictures of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from encoders.products import Aspect


@dataclass(frozen=True)
class MllmBatch:
    """B token sequences as a Qwen-VL style model wants them.

    Attributes:
        input_ids_BT: token ids; at each merged patch of a picture stands the image token.
        aspect_BT: the `Aspect` of every token.
        mask_BT: true for tokens, false for padding.
        image_BT: true where an image token stands.
        position_ids_3BT: time, height and width of every token, for the rotary position embedding.
        pixels_VC: the patches of all pictures, in the order of their tokens; None without any picture.
        grid_I3: frames, rows and columns of patches of every picture; None without any picture.
    """

    input_ids_BT: Tensor
    aspect_BT: Tensor
    mask_BT: Tensor
    image_BT: Tensor
    position_ids_3BT: Tensor
    pixels_VC: Tensor | None
    grid_I3: Tensor | None

    def __len__(self) -> int:
        return len(self.input_ids_BT)

    def to(self, device: torch.device | str) -> MllmBatch:
        """The same batch on another device."""
        return replace(
            self, **{name: value.to(device) for name, value in vars(self).items() if value is not None}
        )

    def is_empty_B(self) -> Tensor:
        """True for products without any token."""
        return ~self.mask_BT.any(1)

    def attended_BT(self) -> Tensor:
        """The mask for attention: a sequence without any token attends to its padding, or yields NaN."""
        return attended(self.mask_BT)


@dataclass(frozen=True)
class DialogueBatch:
    """Questions with their answers; `labels_BT` holds the answers' tokens, and -100 everywhere else."""

    batch: MllmBatch
    labels_BT: Tensor

    def __len__(self) -> int:
        return len(self.batch)

    def to(self, device: torch.device | str) -> DialogueBatch:
        """The same batch on another device."""
        return DialogueBatch(self.batch.to(device), self.labels_BT.to(device))


@dataclass(frozen=True)
class Segment:
    """A stretch of one sequence: tokens of one aspect, and whether the model is to learn to say them."""

    row: int
    aspect: Aspect
    ids: np.ndarray
    learn: bool = False


@dataclass(frozen=True)
class Packed:
    """Segments put side by side and padded."""

    input_ids_BT: Tensor
    aspect_BT: Tensor
    mask_BT: Tensor
    labels_BT: Tensor


def attended(mask_BT: Tensor) -> Tensor:
    """`mask_BT` with all-padding rows turned to true, so that no softmax runs over nothing."""
    return mask_BT | ~mask_BT.any(1, keepdim=True)


def pack(segments: Sequence[Segment], rows: int, pad: int, *, left: bool = False) -> Packed:
    """Join the segments of each row, in their order, and pad the rows to one length of at least one token.

    Args:
        segments: sorted by row.
        rows: how many rows there are; rows without a segment are all padding.
        pad: the id of padding.
        left: pad before the tokens and not behind them, as generation wants it.
    """
    size_S = np.array([len(one.ids) for one in segments], np.int64)
    flat_N = np.concatenate([np.zeros(0, np.int64), *(one.ids for one in segments)])
    row_N = np.repeat(np.array([one.row for one in segments], np.int64), size_S)
    length_B = np.bincount(row_N, minlength=rows)
    width = max(1, int(length_B.max(initial=0)))
    start_B = np.cumsum(length_B) - length_B
    column_N = np.arange(len(flat_N)) - start_B[row_N] + (width - length_B[row_N] if left else 0)
    learn_N = np.repeat(np.array([one.learn for one in segments], bool), size_S)
    aspect_N = np.repeat(np.array([one.aspect for one in segments], np.int64), size_S)

    def padded(values_N: np.ndarray, fill: int) -> Tensor:
        table_BT = np.full((rows, width), fill, np.int64)
        table_BT[row_N, column_N] = values_N
        return torch.from_numpy(table_BT)

    return Packed(
        input_ids_BT=padded(flat_N, pad),
        aspect_BT=padded(aspect_N, Aspect.IMAGE),
        mask_BT=padded(np.ones_like(flat_N), 0).bool(),
        labels_BT=padded(np.where(learn_N, flat_N, -100), -100),
    )
