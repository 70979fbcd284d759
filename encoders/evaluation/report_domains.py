"""The part of an evaluation's report that tells results by category domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from encoders.evaluation.tasks import AGREEMENT, ATTRIBUTES, CLASSIFICATION
from moonrec.report import Cell, Report

_RETRIEVAL = "hit@10"


def add_domains(report: Report, entrants: Mapping[str, Mapping[str, Any]]) -> None:
    """One row per domain, and entrant where there are several."""
    names = dict.fromkeys(domain for values in entrants.values() for domain in values["domains"])
    rows = []
    for domain in names:
        for name, values in entrants.items():
            if domain in values["domains"]:
                entrant = {"entrant": name} if len(entrants) > 1 else {}
                rows.append({"domain": domain} | entrant | _headline(values["domains"][domain]))
    if not rows:
        return
    columns = dict.fromkeys(column for row in rows for column in row)
    report.heading("By category domain")
    with report.details("Results of each domain"):
        report.table(
            [{column: row.get(column) for column in columns} for row in rows],
            f"retrieval: {_RETRIEVAL}, with the queries whose first positive is in the domain; labels: "
            "accuracy, of attributes the mean; all ranked against the whole catalogue. Below: 95 % intervals",
        )


def spanned(values: Mapping[str, Any], key: str) -> Cell | None:
    """A number above its interval; None for no number."""
    low, high = values["ci"][key]
    if values[key] is None:
        return None
    return Cell(values[key], "" if low is None or high is None else f"[{low:.4f}, {high:.4f}]")


def _headline(parts: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for task, values in parts["retrieval"].items():
        found |= {task: spanned(values, _RETRIEVAL)}
        found["queries"] = max(values["queries"], found.get("queries", 0))
    for level, values in parts.get(CLASSIFICATION, {}).items():
        found[level] = spanned(values, "accuracy")
    if ATTRIBUTES in parts:
        accuracies: Sequence[float] = [values["accuracy"] for values in parts[ATTRIBUTES].values()]
        found[ATTRIBUTES] = sum(accuracies) / len(accuracies)
    if AGREEMENT in parts:
        found[AGREEMENT] = spanned(parts[AGREEMENT], "image_text")
    return found
