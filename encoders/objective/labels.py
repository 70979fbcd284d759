"""Who is who in a batch: what makes two vectors the same thing, so that one is no negative of the other.

Shapes: N rows, P pairs, H hard negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NOBODY = -1


@dataclass(frozen=True)
class ItemLabels:
    """Which items some vectors belong to, as int64 codes; `NOBODY` (-1) equals nothing, not even itself.

    Attributes:
        product_N: code of the product; SKUs of one product share it.
        text_N: code of the text; items with identical text share it.
    """

    product_N: Tensor
    text_N: Tensor

    @classmethod
    def of_rows(cls, rows: np.ndarray, product_of_item: np.ndarray, text_of_item: np.ndarray) -> ItemLabels:
        """Labels of catalogue rows; a row of -1 is nobody.

        Args:
            rows: (N,) catalogue rows.
            product_of_item, text_of_item: a code per catalogue row.
        """
        codes = (np.where(rows >= 0, code[rows], NOBODY) for code in (product_of_item, text_of_item))
        return cls(*(torch.from_numpy(code.astype(np.int64)) for code in codes))

    @classmethod
    def nobody(cls, count: int, device: torch.device | str = "cpu") -> ItemLabels:
        """Labels that exclude nothing."""
        empty_N = torch.full((count,), NOBODY, dtype=torch.int64, device=device)
        return cls(empty_N, empty_N)

    @classmethod
    def cat(cls, parts: Sequence[ItemLabels]) -> ItemLabels:
        """One after the other."""
        return cls(torch.cat([p.product_N for p in parts]), torch.cat([p.text_N for p in parts]))

    def to(self, device: torch.device | str) -> ItemLabels:
        """The same labels on `device`."""
        return ItemLabels(self.product_N.to(device), self.text_N.to(device))

    def __len__(self) -> int:
        return len(self.product_N)

    def __getitem__(self, rows: Tensor) -> ItemLabels:
        return ItemLabels(self.product_N[rows], self.text_N[rows])


@dataclass(frozen=True)
class PairLabels:
    """Who stands on either side of the pairs of a batch.

    Attributes:
        positives: the items that were found.
        own: the items that the anchors are or show; nobody where an anchor is a query without an item.
        user_P: code of whose taste a pair shows; -1 for searches, which ask for one thing, whoever asks.
    """

    positives: ItemLabels
    own: ItemLabels
    user_P: Tensor

    def to(self, device: torch.device | str) -> PairLabels:
        """The same labels on `device`."""
        return PairLabels(self.positives.to(device), self.own.to(device), self.user_P.to(device))

    def __len__(self) -> int:
        return len(self.user_P)

    def __getitem__(self, rows: Tensor) -> PairLabels:
        return PairLabels(self.positives[rows], self.own[rows], self.user_P[rows])


def same_item(rows: ItemLabels, columns: ItemLabels) -> Tensor:
    """(R, C) whether a row and a column are the same product or carry identical text."""
    # Nobody is given two different codes, which saves a second comparison of every cell.
    product_R, text_R = (code.masked_fill(code < 0, NOBODY - 1) for code in (rows.product_N, rows.text_N))
    same_RC = product_R[:, None] == columns.product_N[None, :]
    return same_RC.logical_or_(text_R[:, None] == columns.text_N[None, :])
