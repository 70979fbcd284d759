"""The pictures on the page of an evaluation: queries at its top, most of them folded, neighbours below."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from encoders.evaluation.chosen import BEST, FIXED, MEDIAN, WORST
from encoders.evaluation.report_words import task_label
from moonrec.report import Report, Tile

_KINDS = {FIXED: "chosen without regard to its rank"}
_NEIGHBOURS_OPEN = 2

Examples = Mapping[str, Any]
"""The content of `examples.json`."""


def add_queries(report: Report, examples: Examples) -> None:
    """Add a best, a median and a worst query of the first task, and all others folded."""
    shown = {task: entries for task, entries in examples["tasks"].items() if entries}
    if not shown:
        return
    report.heading("Queries and what is found for them")
    first, *others = shown
    # Small tasks have no median or worst query: whatever there is stands in their place.
    found = [
        one
        for kind in (BEST, MEDIAN, WORST)
        for one in [one for one in shown[first] if one["kind"] == kind][:1]
    ]
    opened = found or shown[first][:1]
    report.text(f"{task_label(first)}: a query, and the nearest items with their cosines; hits are marked.")
    _add_strips(report, opened)
    rest = [one for one in shown[first] if all(one is not shown_one for shown_one in opened)]
    if rest:
        with report.details(f"More queries, {task_label(first)}"):
            _add_strips(report, rest)
    for task in others:
        with report.details(f"Queries, {task_label(task)}"):
            _add_strips(report, shown[task])


def add_neighbours(report: Report, examples: Examples) -> None:
    """Add items with the items that are nearest to them, the later ones folded."""
    entries = examples["neighbours"]
    if not entries:
        return
    report.heading("Nearest neighbours")
    report.text("Items of several categories, and the items whose vectors are nearest to theirs.")
    _add_neighbours(report, entries[:_NEIGHBOURS_OPEN])
    if entries[_NEIGHBOURS_OPEN:]:
        with report.details("More neighbours"):
            _add_neighbours(report, entries[_NEIGHBOURS_OPEN:])


def _add_neighbours(report: Report, entries: Sequence[Mapping[str, Any]]) -> None:
    for entry in entries:
        report.strip(_tile(entry["query"]), [_tile(one) for one in entry["results"]])


def _add_strips(report: Report, entries: Sequence[Mapping[str, Any]]) -> None:
    for entry in entries:
        kind = _KINDS.get(entry["kind"], entry["kind"])
        report.strip(
            _tile(entry["query"]),
            [_tile(one) for one in entry["results"]],
            f"{kind}: first hit at rank {entry['rank']:,} of {entry['of']:,}",
        )
    taken = [_tile(one["taken"]) for one in entries if one["kind"] == WORST and "taken" in one]
    if taken:
        worst = "the worst query was" if len(taken) == 1 else "the worst queries were"
        report.tiles(taken, f"What {worst} to find")


def _tile(found: Mapping[str, Any]) -> Tile:
    image = None if found["image"] is None else base64.b64decode(found["image"])
    return Tile(image, found["label"], found["note"], found["hit"])
