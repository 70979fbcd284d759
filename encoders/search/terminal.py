"""What was found, as lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moonrec.text_tables import aligned

_LETTERS = 60


def terminal_lines(found: Mapping[str, Any]) -> list[str]:
    """The lines that `moonrec search` prints for what `search` returned."""
    notes = [f"note: {note}" for note in found["notes"]]
    return [*(_table(found["results"]) if "results" in found else _counts(found)), *notes]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(rows[0])
    return aligned([names, *([_cell(row[name]) for name in names] for row in rows)])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    # What a catalogue says must not steer the terminal.
    text = "".join(one if one.isprintable() else " " for one in str("–" if value is None else value))
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS].rstrip()}…"


def _counts(found: Mapping[str, Any]) -> list[str]:
    searched = f"{found['queries']:,} queries in {found['catalogue']:,} items: {found['out']}"
    lines = [f"{searched} ({found['queries_per_second']:,.0f} queries/s)"]
    if found["empty"]:
        lines.append(f"{found['empty']:,} queries show nothing and have no results")
    if broken := found["broken_images"]["count"]:
        lines.append(f"{broken:,} pictures could not be used")
    return lines
