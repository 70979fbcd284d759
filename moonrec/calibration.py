"""Do the probabilities mean what they say? Expected against observed clicks.

Equal-count bins of the predicted probability, each with its mean prediction and its click rate; the expected
calibration error is the mean distance of the two, weighted by rows (Naeini et al. 2015, "Obtaining Well
Calibrated Probabilities Using Bayesian Binning", AAAI; with bins of equal count, which clicks need: most
predictions of a rare event lie close together).

Legend: R rows, K bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 10


def calibration(
    label_R: NDArray[np.floating], probability_R: NDArray[np.float64], bins: int = _BINS
) -> dict[str, Any]:
    """Compare predicted and observed click rates.

    Args:
        label_R: 0 or 1; one class alone will do.
        probability_R: the predictions.
        bins: how many bins at most; rows of one prediction are never split, so that there may be fewer.

    Returns:
        `expected` and `observed` click rate, their `ratio` (None without a click), the expected calibration
        `error`, and `bins`: a list of `rows`, `expected`, `observed`.

    Raises:
        ValueError: no rows.
    """
    if not len(label_R):
        raise ValueError("calibration of no rows is undefined")
    order_R = np.argsort(probability_R, kind="stable")
    label_R, probability_R = np.asarray(label_R, np.float64)[order_R], probability_R[order_R]
    start_K = _starts(probability_R, bins)
    rows_K = np.diff(np.append(start_K, len(label_R)))
    expected_K = np.add.reduceat(probability_R, start_K) / rows_K
    observed_K = np.add.reduceat(label_R, start_K) / rows_K
    expected, observed = float(probability_R.mean()), float(label_R.mean())
    return {
        "expected": expected,
        "observed": observed,
        "ratio": expected / observed if observed else None,
        "error": float(np.average(np.abs(expected_K - observed_K), weights=rows_K)),
        "bins": [
            {"rows": int(rows), "expected": float(mean), "observed": float(rate)}
            for rows, mean, rate in zip(rows_K, expected_K, observed_K, strict=True)
        ],
    }


def _starts(sorted_R: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Where bins begin: at equal counts, moved back to the first row of the same value."""
    wanted = np.arange(bins) * len(sorted_R) // bins
    return np.unique(np.searchsorted(sorted_R, sorted_R[wanted], side="left"))
