"""How well a metric tells the outcome of a version that the line has not seen.

Left out is a version, or all versions of a family at once: checkpoints of one training resemble each other,
and a line through the neighbours of a checkpoint would only show that.

Legend: V versions, G groups of versions that are left out together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LinesWithout:
    """The least-squares lines without each group, as weights on the outcome.

    Attributes:
        mean_x_G: mean metric of the others.
        mean_GV: weights that give the others' mean outcome.
        slope_GV: weights that give the slope through the others; zeros where there is none.
        has_slope_G: whether the others' metrics differ.
    """

    mean_x_G: np.ndarray
    mean_GV: np.ndarray
    slope_GV: np.ndarray
    has_slope_G: np.ndarray


def lines_without(x_V: np.ndarray, group_V: np.ndarray) -> LinesWithout:
    """Leave out each of at least two groups in turn.

    Args:
        x_V: the metric, not the same for all.
        group_V: 0 to G − 1.
    """
    kept_GV = group_V != np.arange(group_V.max() + 1)[:, None]
    mean_GV = kept_GV / kept_GV.sum(axis=1, keepdims=True)
    mean_x_G = mean_GV @ x_V
    centred_GV = np.where(kept_GV, x_V - mean_x_G[:, None], 0.0)
    spread_G = np.square(centred_GV).sum(axis=1)
    has_slope_G = spread_G > 1e-9 * np.square(x_V - x_V.mean()).sum()
    slope_GV = np.where(has_slope_G[:, None], centred_GV, 0.0) / np.where(has_slope_G, spread_G, 1.0)[:, None]
    return LinesWithout(mean_x_G, mean_GV, slope_GV, has_slope_G)


@dataclass(frozen=True)
class HeldOut:
    """What leaving out says.

    Attributes:
        error_V: outcome minus what the line through the versions of other families predicts. Where their
            metrics are all the same, there is no such line, and their mean outcome predicts.
        mean_error_V: outcome minus the mean of the versions of other families.
    """

    error_V: np.ndarray
    mean_error_V: np.ndarray

    @property
    def error(self) -> float:
        """Root mean square of `error_V`."""
        return _root_mean_square(self.error_V)

    @property
    def mean_error(self) -> float:
        """Root mean square of `mean_error_V`."""
        return _root_mean_square(self.mean_error_V)

    @property
    def ratio(self) -> float | None:
        """The error, that of the mean being 1; None where the mean makes none."""
        return self.error / self.mean_error if self.mean_error > 0 else None


def held_out(x_V: np.ndarray, y_V: np.ndarray, family_V: np.ndarray) -> HeldOut:
    """Leave out each of at least two families in turn; metrics must not all be the same.

    The line is that of least squares: an observed metric predicts best with the slope that its noise has
    pulled towards zero.

    Args:
        x_V: the metric.
        y_V: the outcome's means over seeds.
        family_V: 0 to the number of families − 1.
    """
    others = lines_without(x_V, family_V)
    mean_error_V = y_V - (others.mean_GV @ y_V)[family_V]
    slope_V = (others.slope_GV @ y_V)[family_V]
    return HeldOut(mean_error_V - slope_V * (x_V - others.mean_x_G[family_V]), mean_error_V)


def slope_changes(x_V: np.ndarray, y_V: np.ndarray, group_V: np.ndarray) -> np.ndarray:
    """The least-squares slope minus that without each group (G); infinite where no line is left."""
    centred_V = x_V - x_V.mean()
    slope = float(centred_V @ y_V / (centred_V @ centred_V))
    others = lines_without(x_V, group_V)
    return np.where(others.has_slope_G, slope - others.slope_GV @ y_V, np.inf)


def _root_mean_square(error_V: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error_V))))
