"""Candidates that a user is not to get, taken out in one compiled pass.

Legend: Q users, C candidates of a user, E excluded items of all users.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moonrec.compiled import compiled


@compiled
def drop(
    item_QC: NDArray[np.int64], item_E: NDArray[np.integer[Any]], offset_Q1: NDArray[np.integer[Any]]
) -> None:
    """Put -1 in the place of each candidate of user `q` that is in `item_E[offset_Q1[q]:offset_Q1[q + 1]]`.

    The excluded items of each user must be sorted.
    """
    for q in range(len(item_QC)):
        own_E = item_E[offset_Q1[q] : offset_Q1[q + 1]]
        if len(own_E) == 0:
            continue
        for c in range(item_QC.shape[1]):
            place = np.searchsorted(own_E, item_QC[q, c])
            if place < len(own_E) and own_E[place] == item_QC[q, c]:
                item_QC[q, c] = -1
