from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moonrec.score_keys import best_first_keys, scores_of, ties_of

LARGEST_TIE = 2**32 - 1


@given(
    arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=False)),
    st.integers(0, LARGEST_TIE),
)
def test_sorted_keys_are_a_stable_sort_from_the_highest_score_on(scores: np.ndarray, last: int) -> None:
    # Few distinct ones, so that many are equal; both zeros among them.
    scores = np.concatenate([scores, scores, [0, -0.0, np.inf, -np.inf]]).astype(np.float32)
    ties = np.sort(np.linspace(0, last, len(scores)).astype(np.int64))
    order = np.argsort(-scores, kind="stable")
    keys = np.sort(best_first_keys(scores, ties))
    assert scores_of(keys).tolist() == scores[order].tolist()
    assert ties_of(keys).tolist() == ties[order].tolist()
