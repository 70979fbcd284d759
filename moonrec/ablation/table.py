"""From the numbers of cells to the rows of a table: mean, spread, and the difference to the full model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moonrec.ablation.metrics import present, scale_of
from moonrec.ablation.plan import PlannedRow
from moonrec.ablation.statistics import Difference, Summary, paired_difference, summary

CellValues = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Cell folder of a row, then seed, then metric."""


@dataclass(frozen=True)
class RowResult:
    """One line of a table; differences are to the row `against`, in the metric's own unit.

    `idle_rounds` counts the seeds in which a round changed nothing.
    """

    study: str
    row: str
    key: str
    label: str
    cell: str
    against: str | None
    options: Mapping[str, str]
    curve: str | None
    summaries: Mapping[str, Summary]
    differences: Mapping[str, Difference]
    idle_rounds: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """As `metrics.json` holds it."""
        metrics = {
            name: asdict(found)
            | (
                {"difference": asdict(self.differences[name]), "against": self.against}
                if name in self.differences
                else {}
            )
            for name, found in self.summaries.items()
        }
        return {
            "study": self.study,
            "row": self.row,
            "label": self.label,
            "cells": self.cell,
            "options": dict(self.options),
            "idle_rounds": dict(self.idle_rounds),
            "metrics": metrics,
        }


def row_results(
    planned: Sequence[PlannedRow], values: CellValues, idle_rounds: Mapping[str, Mapping[str, int]]
) -> list[RowResult]:
    """The lines of all rows, in the order of the plan.

    Args:
        planned: the rows.
        values: of their cells.
        idle_rounds: per cell folder, in how many seeds which round changed nothing.
    """
    cell_of = {row.key: row.cell for row in planned}
    results = []
    for row in planned:
        own = _by_metric(values[row.cell])
        other = _by_metric(values[cell_of[row.against]]) if row.against else {}
        pairs = {name: paired_difference(own[name], other[name]) for name in own if name in other}
        results.append(
            RowResult(
                study=row.study.name,
                row=row.row.name,
                key=row.key,
                label=row.row.label,
                cell=row.cell,
                against=row.against,
                options=row.flags,
                curve=row.row.curve,
                summaries={name: summary(found) for name, found in own.items()},
                differences={name: pair for name, pair in pairs.items() if pair is not None},
                idle_rounds=idle_rounds[row.cell],
            )
        )
    return results


def _by_metric(by_seed: Mapping[int, Mapping[str, float]]) -> dict[str, dict[int, float]]:
    metrics = {name: None for found in by_seed.values() for name in found}
    return {
        name: {seed: found[name] for seed, found in sorted(by_seed.items()) if name in found}
        for name in present(metrics)
    }


def metrics_of(results: Sequence[RowResult]) -> list[str]:
    """All metrics that some row has, in the order of tables."""
    return present({name: None for result in results for name in result.summaries})


def summary_text(found: Summary | None, metric: str) -> str:
    """`84.29 ± 0.31` for readers; a single seed has no spread."""
    if found is None:
        return "–"
    scale = scale_of(metric)
    digits = 2 if scale > 1 else 0
    mean = f"{found.mean * scale:.{digits}f}"
    return mean if found.sd is None else f"{mean} ± {found.sd * scale:.{digits}f}"


def difference_text(found: Difference | None, metric: str) -> str:
    """`-3.10 [-5.02, -1.18]` for readers; a single seed has no interval."""
    if found is None:
        return "–"
    scale = scale_of(metric)
    digits = 2 if scale > 1 else 0
    mean = f"{found.mean * scale:+.{digits}f}"
    if found.low is None or found.high is None:
        return mean
    return f"{mean} [{found.low * scale:+.{digits}f}, {found.high * scale:+.{digits}f}]"
