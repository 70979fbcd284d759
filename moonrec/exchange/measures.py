"""From what the finished cells wrote to the arrays that rates are estimated from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moonrec.domains import Domains
from moonrec.exchange.measure_clicks import click_measures
from moonrec.exchange.measure_labels import agreement_metrics, label_metrics
from moonrec.exchange.measure_queries import LeftOut, Table, query_metrics
from moonrec.exchange.observations import ALL, Metric, Outcome

_MAIN = "main"
_Found = tuple[list[Metric], list[LeftOut]]
_FILES: dict[str, Callable[[Sequence[Table]], _Found]] = {
    "queries.parquet": query_metrics,
    "labels.parquet": label_metrics,
    "agreement.parquet": agreement_metrics,
}


@dataclass(frozen=True)
class Measures:
    """All metrics and outcomes, by domain, and what there is none of."""

    metrics: list[Metric]
    outcomes: list[Outcome]
    left_out: list[LeftOut]


def measures(
    evaluations: Sequence[Path | None], judges: Sequence[Path], seeds: int, domains: Domains
) -> Measures:
    """Read what every version was measured at.

    Args:
        evaluations: the run of `moonrec evaluate` of each version; None for one without.
        judges: the run of `moonrec train-ctr` on each.
        seeds: how many seeds each judge has.
        domains: of the catalogue.
    """
    metrics: list[Metric] = []
    left_out: list[LeftOut] = []
    for name, read in _FILES.items():
        found, gone = read([_main_rows(folder, name) for folder in evaluations])
        metrics += found
        left_out += gone
    top3, outcomes, gone = click_measures(judges, seeds, domains)
    judged = {outcome.domain for outcome in outcomes}
    left_out += gone
    return Measures([m for m in (*top3, *metrics) if m.domain in judged], outcomes, left_out)


def constant_metrics(metrics: Sequence[Metric]) -> list[LeftOut]:
    """The metrics in which no version differs from another: no rate can be told of them."""
    return [
        LeftOut(metric.name, metric.domain, f"is {known[0]:.4f} in every version that has it")
        for metric in metrics
        if metric.domain == ALL and len(known := metric.value_V[np.isfinite(metric.value_V)])
        and (known == known[0]).all()
    ]  # fmt: skip


def _main_rows(folder: Path | None, name: str) -> pa.Table | None:
    """The rows of the run's own entrant; None where the file is not there or has none."""
    if folder is None or not (folder / name).is_file():
        return None
    table = pq.read_table(folder / name)
    table = table.filter(pc.equal(table["entrant"], _MAIN))
    return table if len(table) else None
