"""Expected against observed click rates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.evaluation import probabilities
from moonrec.calibration import calibration

rows = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.05, 0.1, 0.3, 0.31, 0.9])), min_size=1, max_size=60
)


def of(pairs: list[tuple[bool, float]], bins: int = 10) -> dict:
    labels, predictions = zip(*pairs, strict=True)
    return calibration(np.array(labels, np.float32), np.array(predictions), bins)


@settings(deadline=None)
@given(pairs=rows, bins=st.integers(1, 12))
def test_bins_hold_every_row_once_and_equal_predictions_together(
    pairs: list[tuple[bool, float]], bins: int
) -> None:
    found = of(pairs, bins)["bins"]
    assert sum(one["rows"] for one in found) == len(pairs)
    assert len(found) <= bins
    assert sum(one["rows"] * one["observed"] for one in found) == pytest.approx(sum(y for y, _ in pairs))
    assert sum(one["rows"] * one["expected"] for one in found) == pytest.approx(sum(p for _, p in pairs))
    # Equal predictions in two bins would make their ranges touch.
    ordered = np.sort([prediction for _, prediction in pairs])
    for end in np.cumsum([one["rows"] for one in found])[:-1]:
        assert ordered[end - 1] < ordered[end]


@settings(deadline=None)
@given(pairs=rows)
def test_the_error_is_the_mean_distance_of_prediction_and_rate_over_rows(
    pairs: list[tuple[bool, float]],
) -> None:
    found = of(pairs)
    distance = sum(one["rows"] * abs(one["expected"] - one["observed"]) for one in found["bins"])
    assert found["error"] == pytest.approx(distance / len(pairs))
    assert abs(found["expected"] - found["observed"]) <= found["error"] + 1e-9


def test_bins_have_equal_counts_where_predictions_differ() -> None:
    found = calibration(np.zeros(1_000), np.random.default_rng(0).random(1_000))
    assert [one["rows"] for one in found["bins"]] == [100] * 10


def test_honest_predictions_have_a_small_error_and_doubled_ones_are_found_out() -> None:
    random = np.random.default_rng(0)
    truth = random.random(100_000) * 0.3
    label = (random.random(len(truth)) < truth).astype(np.float32)
    honest, doubled = calibration(label, truth), calibration(label, 2 * truth)
    assert honest["ratio"] == pytest.approx(1, abs=0.02)
    assert honest["error"] < 0.005
    assert doubled["ratio"] == pytest.approx(2, abs=0.04)
    assert doubled["error"] > 0.1


def test_one_class_is_calibrated_too_and_no_rows_are_refused() -> None:
    clicked = of([(True, 0.5), (True, 0.9)])
    assert clicked["observed"] == 1.0
    assert clicked["ratio"] == pytest.approx(0.7)
    never = of([(False, 0.5), (False, 0.9)])
    assert never["ratio"] is None
    assert never["error"] == pytest.approx(0.7)
    with pytest.raises(ValueError, match="no rows"):
        calibration(np.zeros(0), np.zeros(0))


@pytest.mark.filterwarnings("error")
def test_any_logit_has_a_probability() -> None:
    logit_R = np.array([-np.inf, -1e4, -2.0, 0.0, 2.0, 1e4, np.inf], np.float32)
    low, high = 1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(probabilities(logit_R), [0, 0, low, 0.5, high, 1, 1], rtol=1e-12)
