"""Mean, spread, and the difference of two rows whose seeds are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Of one metric over seeds; `sd` (n − 1 in the denominator) is None for a single seed."""

    seeds: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """Of a row to another one; the limits are None for a single seed."""

    seeds: int
    mean: float
    low: float | None
    high: float | None

    def excludes_zero(self) -> bool | None:
        """Whether the interval lies on one side of zero; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0


def summary(values: Mapping[int, float]) -> Summary:
    """Mean and standard deviation over seeds; `values` maps a seed to its value and is not empty."""
    found = np.array(list(values.values()))
    return Summary(len(found), float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else None)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """Mean of `values` − `reference` over the seeds of both, with Student's interval of paired differences.

    None when they share no seed. The interval tells of seeds alone: another sample of test queries would
    move the numbers, too.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    apart = np.array([values[seed] - reference[seed] for seed in seeds])
    mean = float(apart.mean())
    if len(seeds) == 1:
        return Difference(1, mean, None, None)
    half = quantile(len(seeds)) * float(apart.std(ddof=1)) / float(np.sqrt(len(seeds)))
    return Difference(len(seeds), mean, mean - half, mean + half)


def quantile(seeds: int) -> float:
    """How many standard errors the interval of so many seeds (at least 2) reaches to each side."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1))
