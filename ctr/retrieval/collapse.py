"""Whether vectors still spread over their space: how alike two of them are, and how many directions they use.

Towers trained by other losses than a sampled softmax can end with all vectors in one place, or on a line: the
loss looks well, and every request gets the same candidates.

Shapes: N vectors, M vectors of a block, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# From here on a two-tower model counts as collapsed: pairs of random vectors are nearly the same.
MOST_ALIKE = 0.93
# Ours: towers that are narrower than the frozen vectors, and trained for one purpose, keep fewer directions.
FEWEST_DIRECTIONS = 0.1
_ROWS = 16_384


def spread(vectors_ND: NDArray[np.floating[Any]]) -> dict[str, float | None]:
    """Mean pairwise cosine and effective rank of vectors, exactly, in one pass.

    Both are of the vectors scaled to unit length; zero rows (items without a vector) are left out. The mean
    cosine is over pairs of different rows, from the length of the sum. The effective rank is exp of the
    entropy of the singular values, divided by their sum, *of the centred vectors*: a common direction is what
    the mean cosine tells, so that the two numbers tell different things. It lies between 1 and
    min(D, N - 1), and is 0 where all vectors are the same.

    The D x D matrix of second moments takes N x D² multiplications in double precision, because rounding in
    single precision would add directions: 1 M vectors of width 128 take about a second of one core.

    Args:
        vectors_ND: (N, D), float16 or wider.

    Returns:
        `mean_cosine` and `effective_rank`; None with fewer than two vectors.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007
    (https://ieeexplore.ieee.org/document/7098875).
    """
    width = vectors_ND.shape[1]
    count, sum_D, moments_DD = 0, np.zeros(width), np.zeros((width, width))
    for first in range(0, len(vectors_ND), _ROWS):
        unit_MD = vectors_ND[first : first + _ROWS].astype(np.float64)
        length_M = np.linalg.norm(unit_MD, axis=1)
        unit_MD = unit_MD[length_M > 0] / length_M[length_M > 0, None]
        count += len(unit_MD)
        sum_D += unit_MD.sum(axis=0)
        moments_DD += unit_MD.T @ unit_MD
    if count < 2:
        return {"mean_cosine": None, "effective_rank": None}
    centred_DD = moments_DD - np.outer(sum_D, sum_D) / count
    return {
        "mean_cosine": float((sum_D @ sum_D - count) / (count * (count - 1))),
        "effective_rank": _effective_rank(centred_DD, count),
    }


def collapse_warning(
    found: Mapping[str, float | None], frozen: Mapping[str, float | None] | None, what: str
) -> str | None:
    """One sentence if vectors have collapsed, else None.

    Args:
        found: the `spread` of what was trained.
        frozen: that of the frozen vectors that went in; None where there are none.
        what: what was trained, in the plural, such as "the item vectors".
    """
    cosine, rank = found["mean_cosine"], found["effective_rank"]
    if cosine is None or rank is None:
        return None
    if cosine > MOST_ALIKE:
        return (
            f"Collapse: two of {what} have a cosine of {cosine:.2f} on average (above {MOST_ALIKE}), so that "
            "requests hardly differ in what they find; the curves of training show when it began."
        )
    before = frozen["effective_rank"] if frozen else None
    if before is not None and rank < FEWEST_DIRECTIONS * before:
        return (
            f"Collapse: {what} use {rank:.1f} directions (effective rank), less than a tenth of the "
            f"{before:.1f} of the frozen vectors; the curves of training show when it began."
        )
    return None


def _effective_rank(centred_DD: NDArray[np.float64], count: int) -> float:
    variance_D = np.linalg.eigvalsh(centred_DD)
    # The trace of the uncentred matrix is `count`; what is below its rounding is no direction.
    rounding = count * len(variance_D) * np.finfo(np.float64).eps
    singular_D = np.sqrt(variance_D[variance_D > rounding])
    if not singular_D.size:
        return 0.0
    share_D = singular_D / singular_D.sum()
    return float(np.exp(-(share_D * np.log(share_D)).sum()))
