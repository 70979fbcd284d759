"""Validation of tables against each other: do they speak of the same items, users and times?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moonrec.errors import UserError
from moonrec.ids import rows_of
from moonrec.table_values import shown
from moonrec.tables import check_same_clock
from moonrec.timestamps import readable
from moonrec.validation_tables import LoadedTable, Problem, Severity, percent

_ITEM_COLUMNS = ("item_id", "negative_item_id", "query_item_id")


def across_tables(tables: Sequence[LoadedTable]) -> list[Problem]:
    """Problems between tables: unknown items, clocks, leaking splits, users without a history."""
    return [
        *_unknown_items(tables),
        *_clocks(tables),
        *_split_order(tables),
        *_users_without_history(tables),
    ]


def _unknown_items(tables: Sequence[LoadedTable]) -> Iterator[Problem]:
    catalogues = [
        table.columns["item_id"] for table in tables if table.kind == "items" and table.has("item_id")
    ]
    if not catalogues:
        return
    known = pa.chunked_array([chunk for ids in catalogues for chunk in ids.chunks], pa.string())
    for table in tables:
        if table.kind == "items":
            continue
        for column in _ITEM_COLUMNS:
            if table.has(column) and (problem := _coverage(table, column, known)):
                yield problem


def _coverage(table: LoadedTable, column: str, known: pa.ChunkedArray) -> Problem | None:
    ids = table.columns[column]
    given = pc.is_valid(ids).to_numpy()
    found = rows_of(ids, known) >= 0
    rows = int(given.sum())
    share = float(found.sum()) / max(1, rows)
    table.facts.setdefault("known_items", {})[column] = share
    if share == 1 or not rows:
        return None
    row = int(np.flatnonzero(given & ~found)[0])
    distinct = int(pc.count_distinct(ids.filter(pa.array(given & ~found))).as_py())
    severity: Severity = "error" if share == 0 and column == "item_id" else "warning"
    return table.problem(
        severity,
        f"column {column!r}: {percent(share)} of {rows:,} rows name an item of the items table; "
        f"{distinct:,} ids are unknown, first {shown(ids[row].as_py())} at {table.table.address(row)}",
    )


def _clocks(tables: Sequence[LoadedTable]) -> Iterator[Problem]:
    timed = [table for table in tables if table.has("timestamp")]
    try:
        check_same_clock([table.table for table in timed])
    except UserError as error:
        blamed = next(table for table in timed if str(error).startswith(f"{table.path}: "))
        yield blamed.problem("error", str(error))


def _split_order(tables: Sequence[LoadedTable]) -> Iterator[Problem]:
    impressions = [table for table in tables if table.kind == "impressions" and table.has("timestamp")]
    train = [table for table in impressions if "train" in _words(table)]
    test = [table for table in impressions if "test" in _words(table)]
    for earlier, later in product(train, test):
        end = earlier.numbers("timestamp").max()
        overlap = float((later.numbers("timestamp") < end).mean())
        if overlap:
            yield later.problem(
                "note",
                f"{percent(overlap)} of the test impressions are earlier than the last one of "
                f"{earlier.path.name} ({readable(int(end))}); a split by time has none",
            )


def _words(table: LoadedTable) -> list[str]:
    return re.split(r"[^a-z0-9]+", table.path.name.lower())


def _users_without_history(tables: Sequence[LoadedTable]) -> Iterator[Problem]:
    timed = [table for table in tables if table.has("user_id", "timestamp")]
    events = [table for table in timed if table.kind == "events"]
    if not events:
        return
    log = pa.concat_tables(
        [pa.table({name: t.columns[name] for name in ("user_id", "timestamp")}) for t in events]
    )
    first = log.group_by("user_id").aggregate([("timestamp", "min")])
    first_time = np.append(
        first["timestamp_min"].to_numpy(), np.iinfo(np.int64).max
    )  # last: no events at all
    for table in timed:
        if table.kind != "impressions":
            continue
        started = first_time[rows_of(table.columns["user_id"], first["user_id"])]
        empty = started >= table.numbers("timestamp")
        table.facts["with_history"] = float(1 - empty.mean())
        if empty.any():
            users = pc.count_distinct(table.columns["user_id"].filter(pa.array(empty))).as_py()
            yield table.problem(
                "note",
                f"{int(empty.sum()):,} of {len(empty):,} impressions ({users:,} users) "
                "have no earlier event: their history is empty",
            )
