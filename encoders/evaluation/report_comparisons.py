"""The part of an evaluation's report that holds what is evaluated against its baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moonrec.report import Report

_SHOWN = (
    "hit@1",
    "hit@10",
    "recall@10",
    "mrr",
    "ndcg@10",
    "contrastive_loss",
    "accuracy",
    "f1",
    "image_text",
)


def add_comparisons(report: Report, metrics: Mapping[str, Any]) -> None:
    """A table per baseline: differences over the whole catalogue, with intervals and p."""
    for name, values in metrics["baselines"].items():
        report.heading(f"Difference to {name}")
        rows = [
            {
                "task": one["task"],
                "metric": one["metric"],
                "difference": one["difference"],
                "95 %": f"[{one['ci_low']:+.4f}, {one['ci_high']:+.4f}]",
                "p": one["p"],
                "p, Holm": one["p_holm"],
                "count": one["count"],
            }
            for one in metrics["comparisons"]
            if one["baseline"] == name and one["domain"] is None and one["metric"] in _SHOWN
        ]
        if rows:
            report.table(
                rows,
                "paired: the same queries, or items, for both; a positive difference is in favour of what is "
                "evaluated, but for the contrastive loss. p, Holm: corrected for all comparisons with this "
                "baseline, those in metrics.json that are not shown included",
            )
        if values["uncompared"]:
            report.table([{"task": task, "not compared": why} for task, why in values["uncompared"].items()])
