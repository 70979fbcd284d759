"""What made the runs: options, data, versions; what differs first, and whether it spoils the comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moonrec.compare.numbers import numbers_of
from moonrec.compare.run_files import RunFiles
from moonrec.report import Report

# The inputs that a command's numbers are measured on; of other commands, all that it reads.
_TESTED_ON: Mapping[str, tuple[str, ...]] = {
    "train-ctr": ("test",),
    "evaluate": ("searches", "items"),
    "ablate": ("test", "test_items"),
    "scaling": ("test", "items"),
}
# What a command reads that is no data to be tested on.
_MODELS = ("from", "encoder", "embeddings")
# Where a result was written and what only sped it up says nothing about it.
_INDECISIVE = ("out", "output", "cache", "checkpoint_minutes", "verbose")
_TIMES = ("started", "finished", "resumed", "arguments", "command")
_LETTERS = 200
# A digest's first letters tell it from any other.
_SHORTENED = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{16,}\b")


def comparability_warning(runs: Sequence[RunFiles]) -> str | None:
    """A sentence where runs of one command were not tested on the same data; None where they were."""
    inputs = [_inputs(run) for run in runs]
    names = _tested_on(runs[0]) or tuple(
        dict.fromkeys(name for one in inputs for name in one if name.split(":")[0] not in _MODELS)
    )
    different = [name for name in names if len({one[name] for one in inputs if name in one}) > 1]
    if not different:
        return None
    return (
        f"The runs of `moonrec {runs[0].command}` differ in {', '.join(different)}, on which their numbers "
        "were measured: these numbers are not comparable."
    )


def _tested_on(run: RunFiles) -> tuple[str, ...]:
    known = _TESTED_ON.get(run.command, ())
    # The behaviours are the histories that the axis cuts short, those of the test included.
    return (*known, "events") if run.command == "scaling" and run.metrics.get("axis") == "history" else known


def add_origins(report: Report, runs: Sequence[RunFiles]) -> None:
    """Add options and provenance of the runs: the differences open, all of it folded."""
    options = _table(runs, [_options(run) for run in runs])
    origins = _table(runs, [_origins(run) for run in runs])
    if not options and not origins:
        return
    report.heading("What made this" if len(runs) == 1 else "What differs")
    if len(runs) > 1:
        for name, rows, caption in (
            ("options", options, "Options that differ"),
            ("data and versions", origins, "Data, seeds and versions that differ"),
        ):
            different = [row for row in rows if _differs(row)]
            if different:
                report.table(different, caption)
            else:
                report.text(f"The {name} are the same.")
    for summary, rows in (("All options", options), ("All data, seeds and versions", origins)):
        if rows:
            with report.details(summary):
                report.table(rows)


def _table(runs: Sequence[RunFiles], columns: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for column in columns for name in column)
    named = [(run.name, column) for run, column in zip(runs, columns, strict=True)]
    return [{"": name} | {run: column.get(name) for run, column in named} for name in names]


def _differs(row: Mapping[str, Any]) -> bool:
    return len({value for name, value in row.items() if name}) > 1


def _options(run: RunFiles) -> dict[str, str]:
    return {
        name: _text(value)
        for name, value in run.config.items()
        if value is not None and name not in _INDECISIVE
    }


def _origins(run: RunFiles) -> dict[str, str]:
    """Flat provenance: inputs, seeds, versions, commit, machine."""
    found = {key: value for key, value in run.provenance.items() if key not in _TIMES}
    return {
        name: _SHORTENED.sub(r"\1…", _text(value))
        for name, value in numbers_of(found).values.items()
        if value is not None
    }


def _inputs(run: RunFiles) -> dict[str, str]:
    found = run.provenance.get("inputs")
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, Mapping) else {}


def _text(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"
