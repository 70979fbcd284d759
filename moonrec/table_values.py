"""One column of one batch: check every value, and give it the normalised type."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from moonrec.table_spec import ATTRIBUTES_TYPE, Column, Kind, is_text
from moonrec.timestamps import fits, is_number, to_microseconds

_SHOWN = 60


class BadValue(Exception):
    """A value that may not stand there: its row in the batch, the value shortened, what to do about it."""

    def __init__(self, row: int, value: object, advice: str) -> None:
        super().__init__(f"row {row}: {value}, {advice}")
        self.row, self.value, self.advice = row, shown(value), advice


def shown(value: object) -> str:
    """A value for an error message: its repr without line breaks, at most some 60 characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def normalise(values: pa.Array, column: Column, target: pa.DataType, unit: str) -> pa.Array:
    """Check the values of a column and cast them to `target`.

    Args:
        values: the column as stored, of a type that `type_advice` accepts.
        column: its name, kind and nullability.
        target: its normalised type.
        unit: unit of a timestamp column that holds plain numbers; others do not look at it.

    Raises:
        BadValue: the first value that may not stand there.
    """
    if pt.is_null(values.type):
        normal = pa.nulls(len(values), target)
    elif column.kind is Kind.TIMESTAMP:
        normal = _timestamps(values, column.nullable, unit)
    elif column.kind is Kind.LABEL:
        normal = _labels(values)
    else:
        if pt.is_dictionary(values.type):
            values = values.dictionary_decode()
        _check_utf8(values)
        normal = _map(values) if column.kind is Kind.ATTRIBUTES else values
        normal = _cast(normal, target)
    if column.kind is Kind.ID:
        _refuse(normal, pc.fill_null(pc.equal(normal, ""), False), _EMPTY_ID)
    if not column.nullable and normal.null_count:
        _refuse(values, normal.is_null(), _NULL_ADVICE[column.kind])
    return normal


_EMPTY_ID = "expected an id: an empty string is none; fill it or drop the row"
_BAD_LABEL = "expected 0 or 1; mend it or drop the row"
_NULL_ADVICE = {
    Kind.ID: "expected an id: null is none; fill it or drop the row",
    Kind.TIMESTAMP: "it has no place in the order of events; fill it or drop the row",
    Kind.LABEL: _BAD_LABEL,
}


def _refuse(values: pa.Array, bad: pa.Array, advice: str) -> None:
    rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
    if len(rows):
        raise BadValue(int(rows[0]), values[int(rows[0])].as_py(), advice)


def _timestamps(values: pa.Array, nullable: bool, unit: str) -> pa.Array:
    if not nullable and pt.is_floating(values.type):
        _refuse(values, values.is_null(nan_is_null=True), _NULL_ADVICE[Kind.TIMESTAMP])
    _refuse_overflow(values, unit)
    return to_microseconds(values, unit)


def _refuse_overflow(values: pa.Array, unit: str) -> None:
    bad = np.flatnonzero(~fits(values, unit).to_numpy(zero_copy_only=False))
    if len(bad):
        row = int(bad[0])
        raw = values[row].as_py() if is_number(values.type) else values[row].cast(pa.int64()).as_py()
        raise BadValue(row, raw, "no point in time of our era; check the unit")


def _labels(values: pa.Array) -> pa.Array:
    numbers = values.cast(pa.float64(), safe=False)
    good = pc.or_(pc.equal(numbers, 0.0), pc.equal(numbers, 1.0))
    _refuse(values, pc.invert(pc.fill_null(good, False)), _BAD_LABEL)
    return numbers.cast(pa.int8())


def _check_utf8(values: pa.Array) -> None:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        row = _first(values, lambda one: one.validate(full=True))
        value = (
            values.slice(row, 1).cast(pa.large_binary())[0].as_py() if is_text(values.type) else "other bytes"
        )
        raise BadValue(row, value, "expected UTF-8 text; re-encode it") from None


def _cast(values: pa.Array, target: pa.DataType) -> pa.Array:
    try:
        return values.cast(target)
    except pa.ArrowInvalid:
        row = _first(values, lambda one: one.cast(target))
        raise BadValue(row, values[row].as_py(), f"it does not fit {target}; mend it") from None


def _first(values: pa.Array, check: Callable[[pa.Array], object]) -> int:
    """The first row that `check` refuses; rows are copied out, so that a check sees no neighbour's bytes."""
    for row in range(len(values)):
        try:
            check(values.take(pa.array([row])))
        except pa.ArrowInvalid:
            return row
    return 0


def _map(values: pa.Array) -> pa.Array:
    """A list of key-value structs as a map; a map stays one."""
    if pt.is_map(values.type):
        return values
    pairs = pc.list_flatten(values)
    keys, items = (pc.struct_field(pairs, name).cast(pa.string()) for name in ("key", "value"))
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths, dtype=np.int64)
    if keys.null_count:
        pair = int(np.flatnonzero(keys.is_null().to_numpy(zero_copy_only=False))[0])
        row = int(np.searchsorted(ends, pair, side="right"))
        raise BadValue(row, values[row].as_py(), "an attribute's key is null; name it or drop it")
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    return pa.MapArray.from_arrays(offsets, keys, items, ATTRIBUTES_TYPE, mask=values.is_null())
