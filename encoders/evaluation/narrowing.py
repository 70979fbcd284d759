"""Vectors of several encoders at one width, so that none wins by being wider.

A width that an encoder was trained for is the prefix of its vectors (Matryoshka,
https://arxiv.org/abs/2205.13147). At any other one a prefix would punish an encoder for a training that it
never had, so its vectors go to the principal directions of the catalogue's, which keep as much of their dot
products as so many directions can.

Shapes: N vectors, M of one block, W their own width, D the narrower one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from encoders.encoding import shortened


@dataclass(frozen=True)
class Narrowing:
    """What brings vectors to the width `dim`.

    Attributes:
        prefix: so many leading components are taken first.
        directions_WD: what they are projected to then; None: they stay as they are.
    """

    prefix: int
    directions_WD: np.ndarray | None = None

    @property
    def dim(self) -> int:
        """Width of the vectors that come out."""
        return self.prefix if self.directions_WD is None else self.directions_WD.shape[1]

    def __call__(self, vectors_NW: np.ndarray) -> np.ndarray:
        """Unit vectors (N, D); a zero vector stays one."""
        cut = shortened(vectors_NW.astype(np.float32, copy=False), self.prefix)
        if self.directions_WD is None:
            return cut
        found_ND = cut @ self.directions_WD
        return found_ND / np.linalg.norm(found_ND, axis=1, keepdims=True).clip(1e-12)


def principal_directions(blocks: Iterable[np.ndarray], dim: int) -> np.ndarray:
    """The `dim` directions (W, D), float32, that hold most of the length of the blocks' vectors (M, W).

    The mean is not taken away: similarities are cosines, and what all vectors share is a part of these.
    """
    moment_WW = sum(block.T.astype(np.float64) @ block.astype(np.float64) for block in blocks)
    _, directions_WW = np.linalg.eigh(moment_WW)
    return np.ascontiguousarray(directions_WW[:, ::-1][:, :dim], np.float32)
