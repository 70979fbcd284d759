"""Two laws of diminishing returns, fitted by weighted least squares to many data sets at once.

`power` is a − b·x^(−c) with b ≥ 0 and c between 0.01 and 3, the form of neural scaling laws
(https://arxiv.org/abs/2001.08361, with the irreducible part of https://arxiv.org/abs/2010.14701); `log` is
a + b·log x (natural logarithm). Both are α + β·g(x) with g(x) = (1 − (x/x₀)^(−c)) / c, and x₀ the geometric
mean of the points: for c → 0 that is log(x/x₀), so the log law is the power law without a bend. In this form
α and β are well conditioned linear least squares for every c, and c is searched on a grid that closes in on
the best place.

Legend: D data sets, P points, G places of a curve, C exponents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Law = Literal["power", "log"]
Floats = NDArray[np.float64]

LAWS: tuple[Law, ...] = ("power", "log")
PARAMETERS: dict[Law, int] = {"power": 3, "log": 2}
FEWEST_POINTS: dict[Law, int] = {"power": 4, "log": 3}
FORMULAS: dict[Law, str] = {"power": "a − b·x^(−c)", "log": "a + b·log x"}
EXPONENTS = (0.01, 3.0)
"""The smallest and the largest c. Below, the bend over any grid that is paid for cannot be seen."""

_GRID, _ZOOMS, _ZOOM_PLACES = 121, 5, 9


@dataclass(frozen=True)
class Curves:
    """Fitted curves.

    Attributes:
        law: of all.
        centre: x₀.
        level_D, slope_D: α and β.
        exponent_D: c; 0 for the log law.
    """

    law: Law
    centre: float
    level_D: Floats
    slope_D: Floats
    exponent_D: Floats

    def at(self, x_G: Floats) -> Floats:
        """Values (D, G) of all curves."""
        basis_DG = _basis(self.exponent_D[:, None], np.log(x_G / self.centre)[None, :])
        return self.level_D[:, None] + self.slope_D[:, None] * basis_DG

    def parameters(self) -> dict[str, Floats]:
        """a, b and, for the power law, c of all curves (D); c is NaN for a flat curve."""
        slope, c = self.slope_D, self.exponent_D
        if self.law == "log":
            return {"a": self.level_D - slope * np.log(self.centre), "b": slope}
        flat = slope == 0
        return {
            "a": self.level_D + slope / c,
            "b": slope * self.centre**c / c,
            "c": np.where(flat, np.nan, c),
        }


def fit(law: Law, x_P: Floats, y_DP: Floats, weight_P: Floats | None = None) -> Curves:
    """Fit a law to D data sets over the same points.

    Args:
        law: see above.
        x_P: positive, increasing.
        y_DP: a data set per row.
        weight_P: of the squared residuals; None: all alike.

    Raises:
        ValueError: fewer points than the law has parameters.
    """
    if len(x_P) < PARAMETERS[law]:
        raise ValueError(f"{len(x_P)} points for the {PARAMETERS[law]} parameters of the {law} law")
    weight_P = np.ones(len(x_P)) if weight_P is None else weight_P
    share_P = weight_P / weight_P.sum()
    centre = float(np.exp(np.log(x_P).mean()))
    z_P = np.log(x_P / centre)
    mean_D = y_DP @ share_P
    centred_DP = y_DP - mean_D[:, None]
    bends = law == "power"
    exponent_D = _best_exponents(centred_DP, z_P, share_P) if bends else np.zeros(len(y_DP))
    slope_D, basis_DP, _ = _slopes(exponent_D[:, None], centred_DP, z_P, share_P)
    slope_D = np.maximum(slope_D[:, 0], 0.0) if bends else slope_D[:, 0]
    level_D = mean_D - slope_D * (basis_DP[:, 0] @ share_P)
    return Curves(law, centre, level_D, slope_D, exponent_D)


def _basis(c: Floats, z: Floats) -> Floats:
    """(1 − exp(−c·z)) / c, and z where c is 0."""
    safe = np.where(c == 0, 1.0, c)
    return np.where(c == 0, z, -np.expm1(-c * z) / safe)


def _slopes(c_DC: Floats, centred_DP: Floats, z_P: Floats, share_P: Floats) -> tuple[Floats, Floats, Floats]:
    """Best slope per data set and exponent (D, C), the basis (D, C, P), and how much of the squares it
    explains (D, C), with slopes below 0 explaining nothing."""
    basis_DCP = _basis(c_DC[:, :, None], z_P)
    own_DCP = basis_DCP - (basis_DCP @ share_P)[:, :, None]
    weighted_DCP = own_DCP * share_P
    product_DC = np.einsum("dcp,dp->dc", weighted_DCP, centred_DP)
    square_DC = np.einsum("dcp,dcp->dc", weighted_DCP, own_DCP)
    return product_DC / square_DC, basis_DCP, np.maximum(product_DC, 0.0) ** 2 / square_DC


def _best_exponents(centred_DP: Floats, z_P: Floats, share_P: Floats) -> Floats:
    low, high = np.log(EXPONENTS)
    grid_C = np.linspace(low, high, _GRID)
    basis_CP = _basis(np.exp(grid_C)[:, None], z_P)
    own_CP = basis_CP - (basis_CP @ share_P)[:, None]
    product_DC = centred_DP @ (own_CP * share_P).T
    square_C = (own_CP**2) @ share_P
    best_D = grid_C[(np.maximum(product_DC, 0.0) ** 2 / square_C).argmax(1)]
    reach = grid_C[1] - grid_C[0]
    for _ in range(_ZOOMS):
        around_DC = np.clip(best_D[:, None] + np.linspace(-reach, reach, _ZOOM_PLACES), low, high)
        explained_DC = _slopes(np.exp(around_DC), centred_DP, z_P, share_P)[2]
        best_D = np.take_along_axis(around_DC, explained_DC.argmax(1)[:, None], 1)[:, 0]
        reach /= (_ZOOM_PLACES - 1) / 2
    return np.exp(best_D)
