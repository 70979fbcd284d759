"""The part of an evaluation's report that holds what is evaluated against its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from encoders.evaluation.label_sets import some_of
from encoders.evaluation.report_words import metric_label, task_label
from encoders.evaluation.tasks import ATTRIBUTES
from moonrec.report import Cell, Report

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
_OF_DOMAINS = ("hit@10", "accuracy", "image_text")
_NAMED = 8


def add_comparisons(report: Report, metrics: Mapping[str, Any]) -> None:
    """Per baseline the differences over the whole catalogue, with intervals and p, and those by domain."""
    for name, values in metrics["baselines"].items():
        report.heading(f"Difference to {name}")
        found = [one for one in metrics["comparisons"] if one["baseline"] == name]
        rows = [
            {
                "task": task_label(one["task"]),
                "metric": metric_label(one["metric"]),
                "difference": Cell(one["difference"], _interval(one)),
                "p": one["p"],
                "p, Holm": one["p_holm"],
                "count": one["count"],
            }
            for one in found
            if one["domain"] is None and one["metric"] in _SHOWN
        ]
        if rows:
            report.table(
                rows,
                "paired: the same queries, or items, for both, with 95 % intervals; a positive difference is "
                "in favour of what is evaluated, but for the contrastive loss. p, Holm: corrected for all "
                "comparisons with this baseline, those in metrics.json that are not shown included",
            )
        _by_domain(report, name, found)
        _pairs(report, values["paired"])
        if values["uncompared"]:
            report.table(by_reason(values["uncompared"], "not compared"))


def by_reason(reasons: Mapping[str, str], column: str) -> list[dict[str, str]]:
    """Rows of a table of reasons, each told once, with the tasks that it is the reason of."""
    tasks: dict[str, list[str]] = {}
    for task, reason in reasons.items():
        tasks.setdefault(reason, []).append(task_label(task))
    return [{"task": some_of(named, _NAMED), column: reason} for reason, named in tasks.items()]


def _by_domain(report: Report, baseline: str, found: Sequence[Mapping[str, Any]]) -> None:
    # Retrieval and labels apart: together they are wider than a page.
    tables: dict[bool, dict[str, dict[str, Cell]]] = {}
    for one in found:
        if one["domain"] is not None and one["metric"] in _OF_DOMAINS and not _of_attribute(one["task"]):
            column = f"{task_label(one['task'])}, {metric_label(one['metric'])}"
            rows = tables.setdefault(one["task"].startswith("retrieval."), {})
            rows.setdefault(one["domain"], {})[column] = Cell(one["difference"], _interval(one))
    if not tables:
        return
    with report.details(f"Difference to {baseline} in each domain"):
        for cells in tables.values():
            columns = dict.fromkeys(column for row in cells.values() for column in row)
            report.table(
                [
                    {"domain": domain} | {column: row.get(column) for column in columns}
                    for domain, row in cells.items()
                ],
                "paired, with 95 % intervals",
            )
        report.text(
            "The intervals are not corrected for the number of domains: without any difference one in twenty "
            "would be off 0 still. Further metrics and attributes stand in metrics.json."
        )


def _of_attribute(task: str) -> bool:
    return task.startswith(f"{ATTRIBUTES}.")


def _pairs(report: Report, paired: Mapping[str, Mapping[str, int]]) -> None:
    """Say where the entrants were not asked the same."""
    fewer = [
        f"{task_label(task)}: {one['both']:,} of {one['main']:,} and {one['baseline']:,}"
        for task, one in paired.items()
        if one["both"] < max(one["main"], one["baseline"])
    ]
    if fewer:
        report.text(
            f"Compared on the queries that both were asked only: {'; '.join(fewer)}. An embedding set takes "
            "all photos of an item as one query, and asks nothing for an item that it lacks."
        )


def _interval(one: Mapping[str, Any]) -> str:
    return f"[{one['ci_low']:+.4f}, {one['ci_high']:+.4f}]"
