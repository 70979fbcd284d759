"""The report of an evaluation: retrieval, classification, attributes, and what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from encoders.evaluation.measure import CATALOGUE, CUTOFFS
from encoders.evaluation.tasks import ATTRIBUTES, CLASSIFICATION
from moonrec.report import Report
from moonrec.runs import Run

_LABEL_COLUMNS = ("items", "classes", "accuracy", "majority", "precision", "recall", "f1")
_WEIGHTED = ("precision_weighted", "recall_weighted", "f1_weighted")


def write_report(run: Run, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write `report.html` of an evaluation into the run's folder."""
    retrieval = metrics["retrieval"]
    asked = sum(task["queries"] for task in retrieval.values())
    report = Report("moonrec evaluate", f"{asked:,} queries of {len(retrieval)} retrieval tasks")
    if retrieval:
        _retrieval(report, retrieval)
    for name, title in ((CLASSIFICATION, "Classification"), (ATTRIBUTES, "Attributes")):
        if name in metrics:
            _labelled(report, title, metrics[name])
    if metrics["left_out"]:
        report.heading("Left out")
        report.table([{"task": name, "reason": why} for name, why in metrics["left_out"].items()])
    _warnings(report, metrics)
    report.heading("Configuration")
    report.table(
        [{"option": name, "value": str(value)} for name, value in config.items() if value is not None]
    )
    report.save(run.path / "report.html")


def _retrieval(report: Report, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    report.heading("Retrieval")
    columns = [*(f"hit@{k}" for k in CUTOFFS), *(f"recall@{k}" for k in CUTOFFS), "mrr", "ndcg@10"]
    counts = ("queries", "catalogue")
    report.table(
        [{"task": name} | {key: task[key] for key in (*columns, *counts)} for name, task in tasks.items()],
        "hit rate: any positive in the top K; recall: |top K and positives| / min(K, |positives|)",
    )
    own = [name for name, task in tasks.items() if task["queries_from"] == CATALOGUE]
    if own:
        report.text(
            f"{', '.join(own)}: the searches have no such queries, so the catalogue's own are asked: an "
            "item's picture is to find the same item's words, or the reverse, among the distinct ones. That "
            "measures how well both agree, not what users search for."
        )


def _labelled(report: Report, title: str, parts: Mapping[str, Mapping[str, Any]]) -> None:
    report.heading(f"{title}, zero-shot")
    for columns, caption in (
        (_LABEL_COLUMNS, "macro averages over the classes; majority: always the commonest class"),
        (_WEIGHTED, "averages weighted by the items of each class"),
    ):
        report.table(
            [{"labels": name} | {key: values[key] for key in columns} for name, values in parts.items()],
            caption,
        )
    report.text(
        "An item gets the label whose words are nearest to it. It shows its picture, title and description, "
        "but neither category nor attributes. A title may name the answer."
    )
    for name, values in parts.items():
        if values["items_of_rare_values"]:
            report.text(
                f"{name}: {values['items_of_rare_values']:,} items whose value is none of the "
                f"{values['classes']:,} commonest are not judged."
            )
        if values["items_without_content"]:
            report.text(f"{name}: {values['items_without_content']:,} items show nothing and are not judged.")


def _warnings(report: Report, metrics: Mapping[str, Any]) -> None:
    for name, task in metrics["retrieval"].items():
        missing = task["positives"] - task["positives_in_catalogue"]
        if missing:
            report.warning(
                f"{name}: {missing:,} of {task['positives']:,} positives have no vector that could be found "
                "and count as missed."
            )
    unknown = metrics["unknown_items"]
    if unknown["count"]:
        named = ", ".join(map(repr, unknown["examples"]))
        report.warning(
            f"{unknown['count']:,} of {unknown['rows']:,} searches name items that the catalogue lacks, "
            f"such as {named}."
        )
    report.text(f"Pictures that could not be used: {metrics['broken_images']['count']}.")
    if metrics["broken_images"]["examples"]:
        report.table(metrics["broken_images"]["examples"], "The first of them")
