"""The rows of a log of events, or of clicked impressions, as numbers in memory.

Legend: R rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ctr.data.coded_rows import CodedRows, IdSpaces, RowCoder
from ctr.data.codes import blocks
from ctr.data.features import Feature
from ctr.data.ragged import Ragged
from ctr.data.side_features import SideFeatures
from moonrec.errors import UserError
from moonrec.progress import progress
from moonrec.tables import IMPRESSIONS, Table


@dataclass(frozen=True)
class Log:
    """Rows of a table.

    Attributes:
        rows: users, items, times and context.
        wanted_R: whether a row is of a kind that is learnt and measured.
    """

    rows: CodedRows
    wanted_R: NDArray[np.bool_]


def read_log(table: Table, spaces: IdSpaces, features: Sequence[Feature], kinds: Sequence[str]) -> Log:
    """Read a table of events, or of impressions: of these the rows with label 1 are wanted.

    Args:
        table: the table.
        spaces: take the ids.
        features: the context columns; those that stand in this table are read.
        kinds: values of `event` that are wanted; empty: all.

    Raises:
        UserError: kinds are asked for and the table has no `event`, or none of these kinds.
    """
    coder = RowCoder(spaces, features, queries=False, grow=True, labels=False)
    there = table.column_names
    labelled = table.spec is IMPRESSIONS
    extra = ["label"] * labelled + ["event"] * bool(kinds)
    if kinds and "event" not in there:
        raise UserError(f"{table.path}: has no column 'event' to find --targets {','.join(kinds)} in")
    parts: list[CodedRows] = []
    wanted = [np.zeros(0, bool)]
    columns = list(dict.fromkeys([*coder.columns(there), *extra]))
    batches = progress(table.batches(columns), f"reading {table.path.name}")
    for block in blocks(batches, spaces.largest):
        parts.append(coder(block))
        wanted.append(block["label"].to_numpy() == 1 if labelled else _is_among(block, kinds))
    wanted_R = np.concatenate(wanted)
    if kinds and not wanted_R.any():
        raise UserError(f"{table.path}: no event is of a kind in --targets {','.join(kinds)}")
    return Log(joined(parts), wanted_R)


def joined(parts: Sequence[CodedRows]) -> CodedRows:
    """All parts end to end; at least one."""
    first = parts[0]
    return CodedRows(
        user_R=np.concatenate([part.user_R for part in parts]),
        item_R=np.concatenate([part.item_R for part in parts]),
        time_R=np.concatenate([part.time_R for part in parts]),
        label_R=np.concatenate([part.label_R for part in parts]),
        categories={name: _end_to_end([one.categories[name] for one in parts]) for name in first.categories},
        numbers={name: np.concatenate([one.numbers[name] for one in parts]) for name in first.numbers},
    )


def taken(rows: CodedRows, which: NDArray[np.integer] | NDArray[np.bool_]) -> CodedRows:
    """Some of the rows, by number or flag."""
    at: NDArray[np.integer] = np.arange(len(rows))[which]
    return CodedRows(
        user_R=rows.user_R[at],
        item_R=rows.item_R[at],
        time_R=rows.time_R[at],
        label_R=rows.label_R[at],
        categories={name: column.take(at) for name, column in rows.categories.items()},
        numbers={name: column[at] for name, column in rows.numbers.items()},
    )


def with_sides(log: Log, sides: Iterable[SideFeatures]) -> Log:
    """The log with the columns of other tables joined to it."""
    rows = log.rows
    for side in sides:
        rows = side.join(rows)
    return replace(log, rows=rows)


def _is_among(block: pa.Table, kinds: Sequence[str]) -> NDArray[np.bool_]:
    if not kinds:
        return np.ones(len(block), bool)
    values = block["event"].cast(pa.string())
    found = pc.is_in(values, value_set=pa.array(list(kinds), pa.string()))
    return np.asarray(found.to_numpy())


def _end_to_end(parts: Sequence[Ragged]) -> Ragged:
    values = np.concatenate([part.values for part in parts])
    if all(part.single for part in parts):
        return Ragged(values)
    return Ragged.of_lengths(values, np.concatenate([np.diff(part.offsets_R1) for part in parts]))
