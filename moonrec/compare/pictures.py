"""Where people would rather look: queries with what was found, one run's or several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moonrec.compare.examples import FIXED, Example, examples_of, neighbours_of, same_query
from moonrec.compare.measures import label_of
from moonrec.compare.run_files import RunFiles
from moonrec.report import Report

_MAX_SHARED = 6


def add_pictures(report: Report, run: RunFiles) -> None:
    """Add the pictures of one run."""
    queries, neighbours = examples_of(run.examples), neighbours_of(run.examples)
    for task in dict.fromkeys(one.task for one in queries):
        report.heading(f"What {label_of(task)} finds")
        _add_strips(report, [one for one in queries if one.task == task])
    if neighbours:
        report.heading("Nearest neighbours")
        _add_strips(report, neighbours)


def add_shared_pictures(report: Report, runs: Sequence[RunFiles]) -> None:
    """Add what several runs find for the same queries, and each run's own pictures, folded."""
    found = {run.name: examples_of(run.examples) for run in runs if run.examples}
    if not found:
        return
    shared = _shared(found)
    report.heading("The same queries in each run")
    if not shared:
        report.text("The runs show no query in common: their pictures are those of other searches.")
    for by_run in shared:
        for name, one in by_run.items():
            report.strip(one.query, one.results, _told(name, label_of(one.task), one.found))
    for run in runs:
        if run.examples:
            with report.details(f"Pictures of {run.name}"):
                add_pictures(report, run)


def _shared(found: Mapping[str, Sequence[Example]]) -> list[dict[str, Example]]:
    """Per fixed query that at least two runs show: the example of each run; a few per task."""
    by_query: dict[object, dict[str, Example]] = {}
    for name, examples in found.items():
        for one in examples:
            if one.kind == FIXED:
                by_query.setdefault((one.task, same_query(one.query)), {})[name] = one
    several = [by_run for by_run in by_query.values() if len(by_run) > 1]
    counted: dict[str, int] = {}
    kept = []
    for by_run in several:
        task = next(iter(by_run.values())).task
        counted[task] = counted.get(task, 0) + 1
        if counted[task] <= _MAX_SHARED:
            kept.append(by_run)
    return kept


def _add_strips(report: Report, examples: Sequence[Example]) -> None:
    for one in examples:
        report.strip(one.query, one.results, _told(f"{one.kind} query" if one.kind else "", one.found))


def _told(*parts: str) -> str:
    return " · ".join(filter(None, parts))
