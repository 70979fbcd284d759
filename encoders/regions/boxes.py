"""Boxes as shares of a picture's sides, and the best box over a map of scores.

Shapes: B pictures, G cells along a side of the map, R intervals of a side (G (G + 1) / 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

Box: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1 in 0..1 of the upright picture, the top left corner first."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
# Ours: a crop thinner than this loses what surrounds the product; one larger shows nothing that is new.
_MIN_SIDE = 0.15
_MAX_AREA = 0.85


@dataclass(frozen=True)
class Found:
    """What a detector says of one picture.

    Attributes:
        box: the core region, None for the whole picture.
        source: `saliency`, `grounding`, or `whole` without a box.
        reason: why there is no box; empty with one.
    """

    box: Box | None
    source: str
    reason: str = ""


def whole(reason: str) -> Found:
    """The whole picture, because of `reason`."""
    return Found(None, "whole", reason)


def found_box(box: Box, source: str, margin: float = 0.0) -> Found:
    """A detected box, widened by `margin` of its sides, kept inside the picture and not too thin.

    A box over most of the picture becomes the whole picture.
    """
    x0, x1 = _widened(box[0], box[2], margin)
    y0, y1 = _widened(box[1], box[3], margin)
    if (x1 - x0) * (y1 - y0) > _MAX_AREA:
        return whole("nearly all of it")
    return Found((x0, y0, x1, y1), source)


def _widened(low: float, high: float, margin: float) -> tuple[float, float]:
    width = max((high - low) * (1 + 2 * margin), _MIN_SIDE)
    middle = (low + high) / 2
    return max(0.0, middle - width / 2), min(1.0, middle + width / 2)


def area(box: Box | None) -> float:
    """The share of the picture that a box covers."""
    return 1.0 if box is None else (box[2] - box[0]) * (box[3] - box[1])


def best_boxes(score_BGG: Tensor) -> Tensor:
    """The boxes (B, 4) that hold the largest sum of scores; what does not belong to a box scores negative.

    All boxes of a picture are summed at once by two matrix products (the objective of efficient subwindow
    search, https://ieeexplore.ieee.org/document/5166448, without its search).
    """
    cells = score_BGG.shape[1]
    inside_RG, ends_R2 = _intervals(cells)
    inside_RG, ends_R2 = inside_RG.to(score_BGG), ends_R2.to(score_BGG)
    sums_BRR = inside_RG @ score_BGG @ inside_RG.T
    best_B = sums_BRR.flatten(1).argmax(1)
    rows_B, columns_B = best_B // len(inside_RG), best_B % len(inside_RG)
    y_B2, x_B2 = ends_R2[rows_B], ends_R2[columns_B]
    return torch.stack([x_B2[:, 0], y_B2[:, 0], x_B2[:, 1], y_B2[:, 1]], 1) / cells


@cache
def _intervals(cells: int) -> tuple[Tensor, Tensor]:
    """Every interval of a side: the cells in it (R, G) as 0 or 1, and its ends (R, 2)."""
    start_R, last_R = torch.triu_indices(cells, cells)
    cell_G = torch.arange(cells)
    inside_RG = (cell_G >= start_R[:, None]) & (cell_G <= last_R[:, None])
    return inside_RG.float(), torch.stack([start_R, last_R + 1], 1)


def coverage(box_B4: Tensor, cells: int) -> Tensor:
    """The share (B, G, G) of each cell that the boxes cover."""
    x_BG = _covered(box_B4[:, 0], box_B4[:, 2], cells)
    y_BG = _covered(box_B4[:, 1], box_B4[:, 3], cells)
    return y_BG[:, :, None] * x_BG[:, None, :]


def _covered(low_B: Tensor, high_B: Tensor, cells: int) -> Tensor:
    start_G = torch.arange(cells, device=low_B.device)
    low_BG = torch.maximum(low_B[:, None] * cells, start_G)
    high_BG = torch.minimum(high_B[:, None] * cells, start_G + 1)
    return (high_BG - low_BG).clamp_min(0)


def is_box(values: tuple[float, ...]) -> bool:
    """Whether four numbers are a box."""
    x0, y0, x1, y1 = values
    return all(math.isfinite(value) for value in values) and 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
