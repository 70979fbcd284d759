"""How well a metric tells the outcome of a version that the line has not seen.

Legend: V versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HeldOut:
    """What leaving out each version in turn says.

    Attributes:
        error_V: outcome minus what the line through the other versions predicts. Where the others' metrics
            are all the same, there is no such line, and their mean outcome predicts.
        mean_error_V: outcome minus the mean of the others.
        slope_change_V: the least-squares slope minus that without the version; infinite where there is none
            without it.
    """

    error_V: np.ndarray
    mean_error_V: np.ndarray
    slope_change_V: np.ndarray


def held_out(x_V: np.ndarray, y_V: np.ndarray) -> HeldOut:
    """Leave out each of at least three versions, whose metrics are not all the same.

    The line is that of least squares: an observed metric predicts best with the slope that its noise has
    pulled towards zero. All lines come from one (R. D. Cook, Technometrics 19, 1977).

    Args:
        x_V: the metric.
        y_V: the outcome's means over seeds.
    """
    count = len(x_V)
    centred_V, deviation_V = x_V - x_V.mean(), y_V - y_V.mean()
    weight_V = centred_V / (centred_V @ centred_V)
    residual_V = deviation_V - (weight_V @ deviation_V) * centred_V
    kept_V = 1 - 1 / count - weight_V * centred_V
    mean_error_V = deviation_V * count / (count - 1)
    alone_V = kept_V < 1e-9
    kept_V = np.where(alone_V, 1.0, kept_V)
    return HeldOut(
        error_V=np.where(alone_V, mean_error_V, residual_V / kept_V),
        mean_error_V=mean_error_V,
        slope_change_V=np.where(alone_V, np.inf, weight_V * residual_V / kept_V),
    )


def root_mean_square(error_V: np.ndarray) -> float:
    """The size of an error."""
    return float(np.sqrt(np.mean(np.square(error_V))))
