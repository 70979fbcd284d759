"""Metric and outcome side by side: the versions and seeds that a line, or a step, can use.

Legend: V versions, S seeds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from moonrec.exchange.line import Line, Noise, fit_line
from moonrec.exchange.observations import Metric, Outcome, Versions


@dataclass(frozen=True)
class Points:
    """The versions that have both metric and outcome, and the seeds that all of them have.

    Attributes:
        row_V: their rows among all versions.
        x_V: the metric.
        y_VS: the outcome.
        noise: sampling covariances of metric and of the outcome's means over seeds.
        metric_noise_known: whether the metric's is.
        family_V: their families, 0 to the number of these − 1.
    """

    row_V: np.ndarray
    x_V: np.ndarray
    y_VS: np.ndarray
    noise: Noise
    metric_noise_known: bool
    family_V: np.ndarray

    @property
    def mean_V(self) -> np.ndarray:
        """The outcome's means over seeds."""
        return self.y_VS.mean(axis=1)

    def has_line(self) -> bool:
        """Whether there are two different values of the metric."""
        return len(self.row_V) > 1 and not constant(self.x_V)

    @property
    def families(self) -> int:
        """How many trainings they are of."""
        return len(np.unique(self.family_V))

    def line(self) -> Line:
        """The line through them; only where there is one."""
        return fit_line(self.x_V, self.mean_V, self.noise, self.family_V)

    def without(self, group_V: np.ndarray, group: int) -> Points:
        """All but those of one group."""
        return self._at(np.flatnonzero(group_V != group))

    def among(self, rows: Collection[int]) -> Points:
        """Those of these rows among all versions."""
        return self._at(np.flatnonzero(np.isin(self.row_V, list(rows))))

    def _at(self, kept_V: np.ndarray) -> Points:
        known = (self.noise.outcome_VV, self.noise.metric_VV, self.noise.shared_VV)
        return replace(
            self,
            row_V=self.row_V[kept_V],
            x_V=self.x_V[kept_V],
            y_VS=self.y_VS[kept_V],
            noise=Noise(*(_square(covariance_VV, kept_V) for covariance_VV in known)),
            family_V=_codes(self.family_V[kept_V]),
        )


def points_of(
    metric: Metric, outcome: Outcome, versions: Versions, among_V: np.ndarray | None = None
) -> Points:
    """What a line can go through.

    A version without the metric, or whose judge has no value under any seed, is left out; then a seed that
    some version lacks: means over different seeds would not be of the same thing.

    Args:
        metric: of all versions.
        outcome: of all versions.
        versions: all of them.
        among_V: the rows of the versions to look at, all of them by default; their order is kept.
    """
    row_V = np.arange(len(metric.value_V)) if among_V is None else among_V
    usable_V = np.isfinite(metric.value_V) & np.isfinite(outcome.value_VS).any(axis=1)
    row_V = row_V[usable_V[row_V]]
    y_VS = outcome.value_VS[row_V]
    y_VS = y_VS[:, np.isfinite(y_VS).all(axis=0)]
    if not y_VS.shape[1]:
        row_V, y_VS = row_V[:0], y_VS[:0]
    known = (outcome.covariance_VV, metric.covariance_VV, metric.shared_VV.get(outcome.name))
    none_VV = np.zeros((len(row_V), len(row_V)))
    noise = Noise(*(none_VV if c is None else _square(c, row_V) for c in known))
    family_V = _codes(np.asarray(versions.families)[row_V])
    return Points(row_V, metric.value_V[row_V], y_VS, noise, metric.covariance_VV is not None, family_V)


def constant(values_V: np.ndarray) -> bool:
    """Whether values are the same but for rounding."""
    return bool(np.ptp(values_V) <= 1e-12 * np.abs(values_V).max())


def _codes(family_V: np.ndarray) -> np.ndarray:
    return np.unique(family_V, return_inverse=True)[1]


def _square(matrix_VV: np.ndarray, row_V: np.ndarray) -> np.ndarray:
    return matrix_VV[np.ix_(row_V, row_V)]
