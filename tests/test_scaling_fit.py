"""The two laws on simulated curves whose truth is known: parameters, bands, held-out errors, and the verdict.

Legend: D data sets, P points, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from moonrec.scaling.analysis import analyse, held_out_error
from moonrec.scaling.axis import HISTORY
from moonrec.scaling.figures import curve_figure
from moonrec.scaling.laws import LAWS, PARAMETERS, Floats, Law, fit
from moonrec.scaling.noise import noise_about, point_weights
from moonrec.scaling.results import Curve

X: Floats = np.asarray(1000.0 * 2.0 ** np.arange(6), np.float64)
STUDIES = 500
Truth = Callable[[np.ndarray], np.ndarray]


def log_truth(x: np.ndarray) -> np.ndarray:
    return 0.3 + 0.02 * np.log(x)


def power_truth(x: np.ndarray) -> np.ndarray:
    return 0.6 - 9.0 * x**-0.6


def flat_truth(x: np.ndarray) -> np.ndarray:
    return np.full_like(x, 0.4)


def simulated(truth: Truth, sd: float, seed: int, *, seeds: int = 3, scatter: float = 0.0) -> np.ndarray:
    """Cells (P, S) of one study; `scatter` moves all seeds of a point together."""
    random = np.random.default_rng(seed)
    own = sd * random.standard_normal((len(X), seeds)) + scatter * random.standard_normal((len(X), 1))
    return truth(X)[:, None] + own


@settings(deadline=None, max_examples=40)
@given(a=st.floats(-2, 2), b=st.floats(0.1, 50), c=st.floats(0.05, 2.5), start=st.sampled_from([1, 64, 1e6]))
def test_the_power_law_finds_its_own_parameters(a: float, b: float, c: float, start: float) -> None:
    x = X * (start / X[0])
    scale = b * start**c  # so that the curve has the same size wherever it starts
    found = fit("power", x, (a - scale * x**-c)[None]).parameters()
    assert found["c"][0] == pytest.approx(c, rel=1e-3)
    assert found["b"][0] == pytest.approx(scale, rel=0.02)
    assert found["a"][0] == pytest.approx(a, abs=0.02 * b)


def test_the_log_law_is_weighted_least_squares() -> None:
    random = np.random.default_rng(0)
    y_DP, weight_P = random.normal(size=(7, len(X))), random.uniform(0.2, 3, len(X))
    found = fit("log", X, y_DP, weight_P).parameters()
    for row, y_P in enumerate(y_DP):
        slope, level = np.polyfit(np.log(X), y_P, 1, w=np.sqrt(weight_P))
        assert found["b"][row] == pytest.approx(slope)
        assert found["a"][row] == pytest.approx(level)


def test_the_power_law_reaches_the_least_squares_of_a_general_optimiser() -> None:
    value_DP = np.stack([simulated(power_truth, 0.005, seed).mean(1) for seed in range(20)])
    weight_P = np.random.default_rng(1).uniform(0.5, 2, len(X))
    found = fit("power", X, value_DP, weight_P)
    squares_D = (weight_P * (found.at(X) - value_DP) ** 2).sum(1)

    def residuals(parameters: np.ndarray, y_P: np.ndarray) -> np.ndarray:
        a, log_b, c = parameters
        return np.sqrt(weight_P) * (a - np.exp(log_b) * X**-c - y_P)

    for y_P, squares in zip(value_DP, squares_D, strict=True):
        limits = ([-np.inf, -np.inf, 0.01], [np.inf, np.inf, 3.0])
        best = min(
            2 * optimize.least_squares(residuals, [0.6, 2.0, c], bounds=limits, args=(y_P,)).cost
            for c in (0.1, 0.5, 1.5)
        )
        assert squares <= best * (1 + 1e-5)


def test_a_falling_curve_gives_a_flat_power_law() -> None:
    found = fit("power", X, -log_truth(X)[None])
    assert np.ptp(found.at(X)) == 0
    assert np.isnan(found.parameters()["c"][0])


@pytest.mark.parametrize(
    ("law", "truth", "sd", "seeds", "scatter", "least"),
    [
        ("log", log_truth, 0.01, 3, 0.0, 0.90),
        ("log", log_truth, 0.01, 3, 0.01, 0.90),
        ("log", log_truth, 0.01, 1, 0.0, 0.90),
        ("power", power_truth, 0.004, 3, 0.0, 0.85),
    ],
)
def test_the_band_covers_the_true_curve_at_the_largest_point(
    law: Law, truth: Truth, sd: float, seeds: int, scatter: float, least: float
) -> None:
    covered = 0
    for study in range(STUDIES):
        value_PS = simulated(truth, sd, study, seeds=seeds, scatter=scatter)
        weight_P = point_weights(value_PS)
        curve_P = fit(law, X, value_PS.mean(1)[None], weight_P).at(X)[0]
        errors_DP = noise_about(curve_P, PARAMETERS[law], value_PS).draws(200, np.random.default_rng(study))
        drawn_D = fit(law, X, curve_P + errors_DP, weight_P).at(X[-1:])[:, 0]
        low, high = np.quantile(drawn_D, [0.025, 0.975])
        covered += bool(low <= truth(X)[-1] <= high)
    assert least <= covered / STUDIES <= 0.98


def test_the_report_has_the_band_that_was_tested_at_the_points_it_was_tested_at() -> None:
    value_PS = simulated(log_truth, 0.01, 3)
    analysis = analyse(X, value_PS)
    (place,) = np.flatnonzero(np.isclose(analysis.x_G, X[-1]))
    value, low, high = analysis.fits["log"].curve_3G[:, place]
    assert value == fit("log", X, value_PS.mean(1)[None], point_weights(value_PS)).at(X[-1:])[0, 0]
    assert low < value < high
    assert analysis.x_G[-1] == pytest.approx(2 * X[-1])
    beyond = analysis.fits["log"].beyond
    assert beyond.high - beyond.low > high - low


@pytest.mark.parametrize("law", LAWS)
def test_the_held_out_error_is_that_of_the_fit_without_the_point(law: Law) -> None:
    value_PS = simulated(power_truth, 0.01, 5)
    mean_P, weight_P = value_PS.mean(1), point_weights(value_PS)
    if law == "log":
        slope, level = np.polyfit(np.log(X[:-1]), mean_P[:-1], 1, w=np.sqrt(weight_P[:-1]))
        predicted = level + slope * np.log(X[-1])
    else:
        (a, b, c), _ = optimize.curve_fit(
            lambda x, a, b, c: a - b * (x / 1000) ** -c, X[:-1], mean_P[:-1], p0=(0.6, 0.1, 0.5),
            sigma=1 / np.sqrt(weight_P[:-1]), bounds=([-5, 0, 0.01], [5, 5, 3]),
        )  # fmt: skip
        predicted = a - b * (X[-1] / 1000) ** -c
    expected = predicted - mean_P[-1]
    assert held_out_error(law, X, mean_P[None], weight_P)[0] == pytest.approx(expected, abs=2e-5)
    assert analyse(X, value_PS).fits[law].held_out_error.value == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("truth", "sd", "right", "wrong", "least"),
    [(power_truth, 0.002, "power", "log", 23), (log_truth, 0.01, "log", "power", 0)],
)
def test_the_right_law_is_preferred_where_it_shows_and_the_wrong_one_hardly_ever(
    truth: Truth, sd: float, right: str, wrong: str, least: int
) -> None:
    better = [analyse(X, simulated(truth, sd, study)).better for study in range(25)]
    assert better.count(right) >= least  # type: ignore[arg-type]
    assert better.count(wrong) <= 2  # type: ignore[arg-type]


@pytest.mark.parametrize(("c", "points", "sd"), [(0.2, 4, 0.006), (0.3, 5, 0.01), (0.0, 5, 0.006)])
def test_where_the_bend_hardly_shows_the_interval_told_one_octave_on_still_holds(
    c: float, points: int, sd: float
) -> None:
    x = X[:points]

    def truth(x: np.ndarray) -> np.ndarray:
        return 0.8 - 0.3 * (x / X[0]) ** -c if c else 0.5 + 0.02 * np.log(x)

    random = np.random.default_rng(7)
    told = [analyse(x, truth(x)[:, None] + sd * random.standard_normal((points, 3))) for _ in range(80)]
    told = [one for one in told if one.drawn_on()]
    target = truth(2 * x[-1:])[0]
    held = [one.told_beyond().low <= target <= one.told_beyond().high for one in told]
    assert len(told) >= 60
    assert np.mean(held) >= 0.9
    assert sum(one.better == "log" for one in told) <= 4
    unsure = next(one for one in told if one.better is None)
    assert unsure.drawn_on() == list(LAWS)
    assert "cannot be told apart" in unsure.reasons[-1]


def test_lines_end_at_the_largest_point_on_any_grid() -> None:
    x = np.array([127.0, 228.0, 411.0, 738.0, 1327.0])
    found = analyse(x, simulated(log_truth, 0.01, 1)[:5])
    assert (np.diff(found.x_G) > 0).all()
    assert x[-1] in found.x_G
    axes = curve_figure(
        HISTORY, Curve("test.auc", x, [1] * 5, simulated(log_truth, 0.01, 1)[:5], found)
    ).axes[0]
    solid = [line for line in axes.lines if line.get_linestyle() == "-" and np.size(line.get_xdata()) > 5]
    assert [float(np.asarray(line.get_xdata())[-1]) for line in solid] == [x[-1]] * 2


def test_a_flat_curve_shows_no_scaling_and_is_not_drawn_on() -> None:
    found = [analyse(X, simulated(flat_truth, 0.01, study)) for study in range(20)]
    assert sum(one.trend == "flat" for one in found) >= 16
    flat = next(one for one in found if one.trend == "flat")
    assert flat.drawn_on() == []
    assert any("no scaling seen" in reason for reason in flat.reasons)


def test_a_falling_curve_is_called_so() -> None:
    found = analyse(X, 1 - simulated(log_truth, 0.005, 0))
    assert (found.trend, found.better, found.drawn_on()) == ("falls", None, [])


def test_a_curve_that_rises_faster_and_faster_is_left_to_no_law() -> None:
    found = analyse(X, simulated(lambda x: 0.3 + 0.02 * np.log(x / 500) ** 2, 0.005, 0))
    assert (found.trend, found.better, found.drawn_on()) == ("accelerates", None, [])


@pytest.mark.parametrize(("points", "laws"), [(2, set()), (3, {"log"}), (4, {"log", "power"})])
def test_too_few_points_are_told_in_words(points: int, laws: set[str]) -> None:
    found = analyse(X[:points], simulated(log_truth, 0.001, 0)[:points])
    assert set(found.fits) == laws
    assert sum("points are too few" in reason for reason in found.reasons) == 2 - len(laws)


def test_points_that_agree_exactly_leave_nothing_to_doubt_and_do_not_crash() -> None:
    for value_PS in (np.repeat(log_truth(X)[:, None], 3, 1), np.full((len(X), 3), 0.5), np.full((4, 1), 0.5)):
        found = analyse(X[: len(value_PS)], value_PS)
        assert np.isfinite(found.fits["log"].curve_3G).all()


def test_the_same_seed_gives_the_same_bands() -> None:
    value_PS = simulated(power_truth, 0.004, 1)
    one, same, other = (analyse(X, value_PS, seed).fits["power"].curve_3G for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_points_must_increase() -> None:
    with pytest.raises(ValueError, match="increasing"):
        analyse(X[::-1], simulated(log_truth, 0.01, 0))
