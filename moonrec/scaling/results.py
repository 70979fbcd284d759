"""From cells to the curves that are fitted: one per metric, with the points that can be told apart.

Legend: P points, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moonrec.errors import UserError
from moonrec.scaling.analysis import Analysis, Interval, analyse
from moonrec.scaling.cells import Measured
from moonrec.scaling.laws import Floats


@dataclass(frozen=True)
class Points:
    """What was computed.

    Attributes:
        setting_P: as asked for.
        x_P: the x that the cells report, the mean over seeds: what training came to where it is counted
            (tokens, negatives), what was asked for where it is a limit (histories).
        cells: per point its cells, seed by seed.
        notes: points left out, and why.
    """

    setting_P: Sequence[int]
    x_P: Floats
    cells: Sequence[Sequence[Measured]]
    notes: Sequence[str]

    def facts(self, place: int) -> dict[str, float]:
        """Means over seeds of the cells' facts."""
        cells = self.cells[place]
        return {name: float(np.mean([cell.facts[name] for cell in cells])) for name in cells[0].facts}


@dataclass(frozen=True)
class Curve:
    """One metric over the points, and what the laws make of it."""

    metric: str
    x_P: Floats
    setting_P: Sequence[int]
    value_PS: Floats
    analysis: Analysis

    @property
    def mean_P(self) -> Floats:
        """Mean over seeds."""
        found: Floats = self.value_PS.mean(1)
        return found

    @property
    def sd_P(self) -> Floats | None:
        """Standard deviation over seeds; None for a single one."""
        return self.value_PS.std(1, ddof=1) if self.value_PS.shape[1] > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """As `metrics.json` holds it."""
        analysis, sd_P = self.analysis, self.sd_P
        return {
            "points": [
                {
                    "x": float(x),
                    "setting": int(self.setting_P[place]),
                    "values": self.value_PS[place].tolist(),
                    "mean": float(self.mean_P[place]),
                    "sd": None if sd_P is None else float(sd_P[place]),
                }
                for place, x in enumerate(self.x_P)
            ],
            "fits": {
                law: {
                    **{name: one.value for name, one in found.parameters.items()},
                    "ci": {name: _limits(one) for name, one in found.parameters.items()},
                    "held_out_error": asdict(found.held_out_error),
                    "aicc": found.aicc,
                }
                for law, found in analysis.fits.items()
            },
            "trend": analysis.trend,
            "better": analysis.better,
            "reasons": analysis.reasons,
            "scatter": analysis.scatter,
            "extrapolation": {"x": float(analysis.x_G[-1])}
            | {law: asdict(analysis.fits[law].beyond) for law in analysis.drawn_on()},
        }


def _limits(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def points_of(cells: Mapping[int, Sequence[Measured]]) -> Points:
    """Line the points up by the x that their cells report; one no farther out than that before is left out.

    Args:
        cells: by point as asked for, increasing.
    """
    kept: list[int] = []
    x_P: list[float] = []
    notes: list[str] = []
    for point, of_point in cells.items():
        x = float(np.mean([cell.x for cell in of_point]))
        if x_P and x <= x_P[-1]:
            notes.append(
                f"Point {point} is left out: with these data it stands at {x:,.0f}, no farther than point "
                f"{kept[-1]}."
            )
            continue
        kept.append(point)
        x_P.append(x)
    return Points(kept, np.array(x_P), [cells[point] for point in kept], notes)


def check_metrics(metrics: Sequence[str], point: int, cell: Measured) -> None:
    """Raise a `UserError` for a metric that a cell of that point has not measured."""
    for metric in metrics:
        if metric not in cell.metrics:
            measured = ", ".join(sorted(cell.metrics)) or "nothing"
            raise UserError(
                f"--metric {metric}: was not measured at point {point} with these test data; there is "
                f"{measured}"
            )


def curves_of(points: Points, metrics: Sequence[str]) -> list[Curve]:
    """Fit every metric; all cells have measured it."""
    curves = []
    for metric in metrics:
        value_PS = np.array([[cell.metrics[metric] for cell in cells] for cells in points.cells])
        curves.append(Curve(metric, points.x_P, points.setting_P, value_PS, analyse(points.x_P, value_PS)))
    return curves
