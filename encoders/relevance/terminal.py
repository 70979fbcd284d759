"""What the terminal shows of a relevance model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from encoders.relevance.measure import METRICS
from moonrec.report import format_value
from moonrec.text_tables import aligned


def terminal_lines(metrics: Mapping[str, Any], out: str) -> list[str]:
    """The model beside the cosine, over all pairs and part by part."""
    change = {(row["group"], row["metric"]): row for row in metrics["differences"]}
    header = ["pairs", "queries"]
    for metric in METRICS:
        header += [metric, "cosine", "difference"]
    rows = [["", *header]]
    for group, numbers, cosine in _groups(metrics):
        row = [group, f"{numbers['pairs']:,}", f"{numbers['queries']:,}"]
        for metric in METRICS:
            one = change[group, metric]
            spread = "" if one["ci_low"] is None else f" [{one['ci_low']:+.4f}, {one['ci_high']:+.4f}]"
            row += [format_value(numbers[metric]), format_value(cosine[metric])]
            row.append(f"{format_value(one['difference'])}{spread}")
        rows.append(row)
    test, chosen = metrics["test"], metrics["model"]
    return [
        *aligned(rows),
        f"log loss {test['logloss']:.4f}, calibration error {test['ece']:.4f}; chosen: {chosen['form']}, "
        f"C = {chosen['c']:g}; {test['queries_in_training']:,} test queries also stand in training",
        f"written: {out}/report.html",
    ]


def _groups(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    yield "all", metrics["test"], metrics["baseline"]["cosine"]
    for key, name in (("by_modality", "modality"), ("by_negative", "negative")):
        for one in metrics[key]:
            yield f"{name}: {one[name]}", one, one["cosine"]
