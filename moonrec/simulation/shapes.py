"""Silhouettes of the simulated products, as points in a square from -1 to 1 (x to the right, y down)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Stroke = tuple[Points, float]
"""A line and its width."""


@dataclass(frozen=True)
class Silhouette:
    """Parts from back to front; `body` carries the pattern, all others are in the trim colour."""

    body: tuple[Points, ...]
    behind: tuple[Stroke, ...] = ()
    trim: tuple[Points, ...] = ()
    seams: tuple[Stroke, ...] = ()

    def outline(self) -> Points:
        """Return points (P, 2) whose bounding box holds all parts."""
        sides = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)]) / 2
        strokes = [points + width * side for points, width in self.behind for side in sides]
        return np.concatenate([*self.body, *self.trim, *strokes])


def _arc(
    cx: float, cy: float, rx: float, ry: float, start: float = 0, stop: float = 360, n: int = 28
) -> Points:
    angle = np.radians(np.linspace(start, stop, n))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _path(*xy: float) -> Points:
    return np.array(xy, dtype=np.float64).reshape(-1, 2)


def _mirrored(*xy: float) -> Points:
    """Close a right-hand profile (top to bottom) with its mirror image."""
    right = _path(*xy)
    return np.concatenate([right, (right * (-1, 1))[::-1]])


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return _path(x0, y0, x1, y0, x1, y1, x0, y1)


def _cushion() -> Points:
    t = np.linspace(0, 2 * np.pi, 60)
    c, s = np.cos(t), np.sin(t)
    reach = 0.78 + 0.16 * np.abs(np.sin(2 * t)) ** 1.5
    return np.stack([np.sign(c) * np.abs(c) ** 0.35 * reach, np.sign(s) * np.abs(s) ** 0.35 * reach], axis=1)


def _umbrella() -> Points:
    dome = _arc(0, 0.1, 0.98, 0.9, 180, 360, 30)
    scallops = [_arc(x, 0.1, 0.245, 0.13, 0, -180, 8) for x in (0.735, 0.245, -0.245, -0.735)]
    return np.concatenate([dome, *scallops])


SILHOUETTES: dict[str, Silhouette] = {
    "tshirt": Silhouette(
        body=(
            _mirrored(0.24, -0.82, 0.5, -0.78, 0.98, -0.36, 0.72, -0.08, 0.54, -0.24, 0.54, 0.85),
        ),
        trim=(_mirrored(0.24, -0.84, 0.2, -0.7, 0.1, -0.63),),
    ),
    "dress": Silhouette(
        body=(
            _mirrored(
                0.22, -0.95, 0.34, -0.9, 0.36, -0.55, 0.24, -0.2, 0.42, 0.2, 0.7, 0.92, 0.35, 0.97
            ),
        ),
        trim=(_mirrored(0.25, -0.25, 0.26, -0.14), _mirrored(0.16, -0.97, 0.06, -0.78)),
    ),
    "trousers": Silhouette(
        body=(
            _mirrored(0.46, -0.92, 0.54, -0.5, 0.62, 0.95, 0.2, 0.95, 0.02, -0.3),
        ),
        trim=(_mirrored(0.46, -0.95, 0.48, -0.82),),
    ),
    "handbag": Silhouette(
        body=(_mirrored(0.62, -0.25, 0.86, 0.8, 0.78, 0.88),),
        behind=((_arc(0, -0.22, 0.42, 0.66, 180, 360), 0.1),),
        trim=(_mirrored(0.64, -0.27, 0.67, -0.12), _box(-0.1, -0.2, 0.1, 0.04)),
    ),
    "backpack": Silhouette(
        body=(_mirrored(0.2, -0.8, 0.48, -0.7, 0.6, -0.4, 0.64, 0.75, 0.52, 0.88),),
        behind=((_arc(0, -0.78, 0.16, 0.16, 180, 360), 0.09), (_path(-0.72, -0.1, -0.74, 0.7), 0.16),
                (_path(0.72, -0.1, 0.74, 0.7), 0.16)),
        seams=((_path(-0.42, 0.2, 0.42, 0.2, 0.42, 0.72, -0.42, 0.72, -0.42, 0.2), 0.06),
               (_path(-0.6, -0.3, 0.6, -0.3), 0.06)),
    ),
    "hat": Silhouette(
        body=(
            _arc(0, 0.42, 0.98, 0.24),
            np.concatenate([_path(-0.56, 0.45, -0.46, -0.4), _arc(0, -0.38, 0.46, 0.3, 180, 360),
                            _path(0.46, -0.4, 0.56, 0.45)]),
        ),
        trim=(_mirrored(0.53, 0.12, 0.56, 0.34),),
    ),
    "umbrella": Silhouette(
        body=(_umbrella(),),
        behind=((_path(0, -0.92, 0, 0.72), 0.07), (_arc(0.14, 0.74, 0.14, 0.16, 180, 0), 0.08)),
        seams=((_path(0, -0.8, -0.49, 0.08), 0.03), (_path(0, -0.8, 0, 0.08), 0.03),
               (_path(0, -0.8, 0.49, 0.08), 0.03)),
    ),
    "boot": Silhouette(
        body=(
            _path(-0.5, -0.92, 0.12, -0.92, 0.14, -0.1, 0.5, 0.16, 0.84, 0.3, 0.92, 0.62, -0.56, 0.62),
        ),
        trim=(
            _path(-0.58, 0.6, 0.95, 0.6, 0.93, 0.78, 0.1, 0.78, 0.05, 0.74, -0.15, 0.74, -0.16, 0.9,
                  -0.58, 0.9),
            _path(-0.53, -0.95, 0.15, -0.95, 0.15, -0.78, -0.53, -0.78),
        ),
    ),
    "mug": Silhouette(
        body=(_path(-0.78, -0.68, 0.4, -0.68, 0.36, 0.7, 0.26, 0.8, -0.64, 0.8, -0.74, 0.7),),
        behind=((_arc(0.42, 0.02, 0.4, 0.38), 0.15),),
        trim=(_arc(-0.19, -0.68, 0.59, 0.1),),
    ),
    "vase": Silhouette(
        body=(
            _mirrored(0.3, -0.92, 0.2, -0.62, 0.24, -0.42, 0.5, -0.12, 0.62, 0.2, 0.54, 0.58, 0.3, 0.9),
        ),
        trim=(_arc(0, -0.92, 0.31, 0.07), _mirrored(0.33, 0.84, 0.36, 0.95)),
    ),
    "lamp": Silhouette(
        body=(_mirrored(0.36, -0.92, 0.82, 0.12),),
        behind=((_path(0, 0.1, 0, 0.82), 0.13),),
        trim=(_mirrored(0.14, 0.8, 0.5, 0.86, 0.5, 0.95),),
    ),
    "cushion": Silhouette(body=(_cushion(),)),
    "bottle": Silhouette(
        body=(_mirrored(0.16, -0.62, 0.2, -0.48, 0.4, -0.24, 0.42, 0.88, 0.36, 0.95),),
        trim=(_mirrored(0.2, -0.95, 0.2, -0.62),),
    ),
}  # fmt: skip
