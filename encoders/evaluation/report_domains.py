"""The part of an evaluation's report that tells results by category domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from encoders.evaluation.report_words import Entrants, entrant_cell, task_label
from encoders.evaluation.tasks import AGREEMENT, ATTRIBUTES, CLASSIFICATION
from moonrec.report import Cell, Report

_RETRIEVAL = "hit@10"


def add_domains(report: Report, entrants: Entrants) -> None:
    """One row per domain, and entrant where there are several: retrieval, then labels."""
    parts = [
        ({"domain": domain} | entrant_cell(name, entrants), values["domains"][domain])
        for domain in dict.fromkeys(domain for values in entrants.values() for domain in values["domains"])
        for name, values in entrants.items()
        if domain in values["domains"]
    ]
    if not parts:
        return
    report.heading("By category domain")
    with report.details("Results of each domain"):
        for of, caption in (
            (_retrieved, f"retrieval: {_RETRIEVAL}, with the queries whose first positive is in the domain"),
            (_labelled, "accuracy of labels, of attributes the mean; and the agreement"),
        ):
            found = [(named, of(values)) for named, values in parts]
            columns = dict.fromkeys(column for _, row in found for column in row)
            if columns:
                report.table(
                    [named | {column: row.get(column) for column in columns} for named, row in found],
                    f"{caption}; all ranked against the whole catalogue. Below: 95 % intervals",
                )


def spanned(values: Mapping[str, Any], key: str) -> Cell | None:
    """A number above its interval; None for no number."""
    low, high = values["ci"][key]
    if values[key] is None:
        return None
    return Cell(values[key], "" if low is None or high is None else f"[{low:.4f}, {high:.4f}]")


def _retrieved(parts: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {task_label(t): spanned(one, _RETRIEVAL) for t, one in parts["retrieval"].items()}
    if found:
        found["queries"] = max(one["queries"] for one in parts["retrieval"].values())
    return found


def _labelled(parts: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        task_label(f"{CLASSIFICATION}.{level}"): spanned(values, "accuracy")
        for level, values in parts.get(CLASSIFICATION, {}).items()
    }
    if ATTRIBUTES in parts:
        accuracies: Sequence[float] = [values["accuracy"] for values in parts[ATTRIBUTES].values()]
        found[ATTRIBUTES] = sum(accuracies) / len(accuracies)
    if AGREEMENT in parts:
        found[AGREEMENT] = spanned(parts[AGREEMENT], "image_text")
    return found
