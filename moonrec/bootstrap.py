"""Intervals by resampling, and a paired test that assumes no distribution.

What is resampled are independent units (queries, items), with all their numbers at once. Every function takes
a seed: the same seed gives the same numbers.

Shapes: Q units, M numbers per unit, C cells of equal units, B replicates, b of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Ours: with so many flips the least p is 1e-4, which survives Holm's correction for hundreds of comparisons.
FLIPS = 9_999
# What fits into a core's cache: five times as fast as 4 million at once (our measurement).
_NUMBERS_AT_ONCE = 1 << 16
# Drawing a unit costs about a fifteenth of drawing the count of a cell (our measurement).
_UNITS_PER_CELL = 15
_ROUNDING = 1e-6


def resampled_counts(
    counts_C: NDArray[np.integer[Any]], replicates: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """How often every cell occurs among as many units as there are, drawn with replacement: int64 (b, C).

    Units in one cell are alike, so that large tables of few different rows cost no more than these.

    Args:
        counts_C: the units in each cell.
        replicates: B, over all arrays that are handed out.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    cells, units = len(counts_C), int(counts_C.sum())
    by_unit = units <= _UNITS_PER_CELL * cells
    cell_of_unit = np.repeat(np.arange(cells), counts_C) if by_unit else None
    at_once = max(1, _NUMBERS_AT_ONCE // max(units if by_unit else cells, 1))
    for first in range(0, replicates, at_once):
        rows = min(at_once, replicates - first)
        if cell_of_unit is None:
            yield rng.multinomial(units, counts_C / units, rows)
            continue
        drawn = cell_of_unit[rng.integers(0, units, (rows, units))] + cells * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * cells).reshape(rows, cells)


def resampled_means(values_QM: NDArray[np.floating[Any]], replicates: int, seed: int) -> NDArray[np.float64]:
    """Means of each column over units drawn with replacement, float64 (B, M).

    A NaN is a unit that has no such number; a replicate that draws none of a column's numbers is NaN.
    """
    known_QM = np.isfinite(values_QM)
    both = np.concatenate([np.where(known_QM, values_QM, 0.0), known_QM], axis=1, dtype=np.float64)
    ones_Q = np.ones(len(values_QM), np.int64)
    sums = np.concatenate([drawn @ both for drawn in _as_floats(resampled_counts(ones_Q, replicates, seed))])
    totals_BM, numbers_BM = np.split(sums, 2, axis=1)
    with np.errstate(invalid="ignore"):
        means_BM: NDArray[np.float64] = totals_BM / numbers_BM
    return means_BM


def interval(replicates_BM: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middle 95 % of each column of replicates: low (M) and high (M); NaN where a column has none."""
    known = np.isfinite(replicates_BM).any(axis=0)
    bounds = np.full((2, replicates_BM.shape[1]), np.nan)
    bounds[:, known] = np.nanpercentile(replicates_BM[:, known], [2.5, 97.5], axis=0)
    return bounds[0], bounds[1]


def sign_flip_p(differences_QM: NDArray[np.floating[Any]], seed: int) -> NDArray[np.float64]:
    """Two-sided p (M) of the mean of each column being 0, by flipping the signs of whole units.

    Were there no difference between two systems, each unit's difference could as well have had the other
    sign. p is the share of `FLIPS` random flips, with the one that was seen, whose mean lies as far from 0.
    For differences of -1, 0 and 1 this is McNemar's exact test. A NaN counts as no difference.

    Source: Smucker, Allan and Carterette, "A comparison of statistical significance tests for information
    retrieval evaluation", CIKM 2007 (https://doi.org/10.1145/1321440.1321528).
    """
    differences_QM = np.nan_to_num(np.asarray(differences_QM, np.float32))
    differences_QM = differences_QM[(differences_QM != 0).any(axis=1)]
    units, numbers = differences_QM.shape
    if not units:
        return np.ones(numbers)
    totals_M = differences_QM.sum(axis=0, dtype=np.float64)
    reached_M = np.abs(totals_M) - _ROUNDING * np.abs(differences_QM).sum(axis=0, dtype=np.float64)
    rng = np.random.default_rng(seed)
    at_once = max(1, 4 * _NUMBERS_AT_ONCE // units)
    beyond_M = np.ones(numbers)
    for first in range(0, FLIPS, at_once):
        rows = min(at_once, FLIPS - first)
        packed = rng.integers(0, 256, (rows, -(-units // 8)), np.uint8)
        kept = np.unpackbits(packed, axis=1, count=units).astype(np.float32)
        flipped_bM = 2.0 * (kept @ differences_QM) - totals_M
        beyond_M += (np.abs(flipped_bM) >= reached_M).sum(axis=0)
    return beyond_M / (FLIPS + 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p values, adjusted so that the chance of any false finding among them stays at the level.

    None is no test: it stays None and counts for nothing.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 1979.
    """
    tested = [number for number, p in enumerate(p_values) if p is not None]
    p = np.array([p_values[number] for number in tested], np.float64)
    order = np.argsort(p, kind="stable")
    # The k-th smallest of n is held against the n - k + 1 hypotheses that are left.
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    found: list[float | None] = [None] * len(p_values)
    for number, value in zip(tested, adjusted, strict=True):
        found[number] = float(value)
    return found


def _as_floats(parts: Iterator[NDArray[np.int64]]) -> Iterator[NDArray[np.float64]]:
    # A product of integers and floats does not go through BLAS.
    return (part.astype(np.float64) for part in parts)
