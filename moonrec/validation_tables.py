"""Validation of one table by itself: every value of every column, how full it is, and what looks odd."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from moonrec.errors import UserError
from moonrec.ids import rows_of
from moonrec.table_spec import Kind
from moonrec.table_values import shown
from moonrec.tables import Table
from moonrec.timestamps import readable

Severity = Literal["error", "warning", "note"]

# Columns of these kinds are small and are compared across rows and tables; others are only streamed.
_HELD = (Kind.ID, Kind.TIMESTAMP, Kind.LABEL)
PICTURES = (Kind.IMAGE, Kind.IMAGES)


@dataclass(frozen=True)
class Problem:
    """Something that was found: errors stop other commands, warnings cost quality, notes inform."""

    severity: Severity
    file: str
    message: str

    def __str__(self) -> str:
        text = self.message if self.message.startswith(self.file) else f"{self.file}: {self.message}"
        return f"{self.severity}: {text}"


@dataclass
class LoadedTable:
    """A table, those of its id, time and label columns that are without fault, and what is known about it."""

    table: Table
    columns: dict[str, pa.ChunkedArray] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the table lies."""
        return self.table.path

    @property
    def kind(self) -> str:
        """`items`, `events`, `impressions` or `searches`."""
        return self.table.spec.name

    def has(self, *names: str) -> bool:
        """Whether all these columns are there and without fault."""
        return all(name in self.columns for name in names)

    def numbers(self, name: str) -> np.ndarray:
        """An int column as a numpy array of shape (rows,); only where no value is null."""
        return np.asarray(self.columns[name].to_numpy())

    def problem(self, severity: Severity, message: str) -> Problem:
        """A problem of this table."""
        return Problem(severity, str(self.path), message)


def load(table: Table) -> LoadedTable:
    """Read every column but the pictures, check each value, keep the first mistake of each column."""
    loaded = LoadedTable(table)
    filled: dict[str, float] = {}
    for name in table.column_names:
        kind = table.spec.column(name).kind
        if kind in PICTURES:
            continue
        try:
            if kind in _HELD:
                loaded.columns[name] = table.read([name])[name]
                full = len(loaded.columns[name]) - loaded.columns[name].null_count
            else:
                full = sum(_count_filled(batch[name]) for batch in table.batches([name]))
            filled[name] = full / table.count_rows()
        except UserError as error:
            loaded.problems.append(loaded.problem("error", str(error)))
    columns = {column.name: str(column.type) for column in table.schema}
    loaded.facts = {"kind": loaded.kind, "rows": table.count_rows(), "columns": columns, "filled": filled}
    loaded.facts |= _facts(loaded)
    return loaded


def inspect(loaded: LoadedTable) -> list[Problem]:
    """What looks odd in one table whose values are each in order."""
    checks: list[Callable[[LoadedTable], Problem | None]] = [
        _event_order,
        _one_sided_labels,
        _repeated_impressions,
        _negative_is_positive,
        _poor_titles,
    ]
    return [problem for check in checks if (problem := check(loaded)) is not None]


def percent(share: float) -> str:
    """A share as percent, cut off and not rounded, so that only all of it reads 100 %."""
    return f"{math.floor(share * 1000) / 10:g} %"


def _facts(loaded: LoadedTable) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    names = {"user_id": "users", "item_id": "items"}
    facts |= {names[c]: pc.count_distinct(loaded.columns[c]).as_py() for c in names if c in loaded.columns}
    if loaded.has("timestamp") and (times := loaded.table.time_range):
        facts["time_range"] = [readable(times[0]), readable(times[1])]
    if loaded.has("label"):
        facts["label_rate"] = float(loaded.numbers("label").mean())
    return facts


def text_given(values: pa.Array) -> np.ndarray:
    """Boolean array of shape (rows,): whether a text is neither null nor blank."""
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True)
    return ~np.asarray(blank.to_numpy(zero_copy_only=False))


def _count_filled(values: pa.Array) -> int:
    if pt.is_string(values.type):
        return int(text_given(values).sum())
    if pt.is_map(values.type):  # no Arrow kernel counts a map's entries; an empty map starts where it ends
        return int((np.diff(values.offsets.to_numpy()) > 0).sum())
    return len(values) - values.null_count


def _event_order(loaded: LoadedTable) -> Problem | None:
    if loaded.kind != "events" or not loaded.has("timestamp"):
        return None
    (earlier,) = np.nonzero(np.diff(loaded.numbers("timestamp")) < 0)
    if not len(earlier):
        return None
    row = int(earlier[0]) + 1
    return loaded.problem("note", f"events are not in order of time (first at row {row}); sorted on load")


def _one_sided_labels(loaded: LoadedTable) -> Problem | None:
    rate = loaded.facts.get("label_rate")
    if rate not in (0.0, 1.0):
        return None
    return loaded.problem("warning", f"every label is {rate:.0f}; AUC needs both 0 and 1")


def _repeated_impressions(loaded: LoadedTable) -> Problem | None:
    if loaded.kind != "impressions" or not loaded.has("user_id", "item_id", "timestamp"):
        return None
    users, items = (_codes(loaded.columns[name]) for name in ("user_id", "item_id"))
    times = loaded.numbers("timestamp")
    order = np.lexsort((times, items, users))
    same = np.ones(max(0, len(order) - 1), dtype=bool)
    for values in (users, items, times):
        same &= np.diff(values[order]) == 0
    if not same.any():
        return None
    at = int(np.argmax(same))
    rows = sorted(int(order[i]) for i in (at, at + 1))
    return loaded.problem(
        "warning",
        f"{loaded.table.pair_of_rows(*rows)}: one is a copy of the other in user, item and time "
        f"({int(same.sum()):,} such impressions); copies count twice in training and metrics",
    )


def _codes(ids: pa.ChunkedArray) -> np.ndarray:
    return rows_of(ids, pc.unique(ids))


def _negative_is_positive(loaded: LoadedTable) -> Problem | None:
    if not loaded.has("item_id", "negative_item_id"):
        return None
    same = pc.fill_null(pc.equal(loaded.columns["item_id"], loaded.columns["negative_item_id"]), False)
    (rows,) = np.nonzero(same.to_numpy())
    if not len(rows):
        return None
    row = int(rows[0])
    item = shown(loaded.columns["item_id"][row].as_py())
    return loaded.problem(
        "warning",
        f"negative_item_id equals item_id in {len(rows):,} rows, first {loaded.table.address(row)}: {item}",
    )


def _poor_titles(loaded: LoadedTable) -> Problem | None:
    share = loaded.facts["filled"].get("title", 1.0)
    if loaded.kind != "items" or share == 1:
        return None
    return loaded.problem("warning", f"only {percent(share)} of the items have a title")
