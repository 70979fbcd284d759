"""Points in time: whatever a table holds becomes int64 microseconds since 1970 UTC.

Plain numbers do not say their unit. It is told from their size: what seconds count up to the year 5138 is
still only 1973 in milliseconds, so the ranges cannot meet in logs of our time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

_UPPER_BOUND = {"s": 10**11, "ms": 10**14, "us": 10**17}
_UNITS = (*_UPPER_BOUND, "ns")
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_FURTHEST_SECONDS = 1e11  # the year 5138, or as far before 1970
_FURTHEST_SECONDS_NS = 9.2e9  # where 64-bit nanoseconds end
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def unit_of(number: float) -> str:
    """Unit of a number of time units since 1970; zero, negative and small numbers count as seconds."""
    return next((unit for unit, bound in _UPPER_BOUND.items() if number < bound), "ns")


def first_of_each_unit(values: pa.Array) -> dict[str, int]:
    """Row of the first number of each unit that occurs among `values`, in the order of these rows."""
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    (rows,) = np.nonzero(np.isfinite(numbers))
    units = np.searchsorted(list(_UPPER_BOUND.values()), numbers[rows], side="right")
    found, firsts = np.unique(units, return_index=True)
    return {_UNITS[found[i]]: int(rows[firsts[i]]) for i in np.argsort(firsts)}


def finite(values: pa.Array) -> pa.Array:
    """The numbers, with NaN and infinities turned into nulls."""
    return pc.if_else(pc.is_finite(values), values, None) if pt.is_floating(values.type) else values


def is_number(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds plain numbers, whose unit has to be told from their size."""
    return bool(pt.is_integer(dtype) or pt.is_floating(dtype))


def to_microseconds(values: pa.Array, unit: str) -> pa.Array:
    """Convert timestamps, dates or numbers of `unit` to int64 microseconds; NaN and infinities become null.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit (see `fits`, which finds it).
    """
    if pt.is_null(values.type):
        return values.cast(pa.int64())
    if not is_number(values.type):
        return values.cast(pa.timestamp("us", getattr(values.type, "tz", None)), safe=False).cast(pa.int64())
    if pt.is_floating(values.type):
        numbers = finite(values.cast(pa.float64()))
        return pc.round(pc.multiply(numbers, 1e6 / _PER_SECOND[unit])).cast(pa.int64())
    values = values.cast(pa.int64())
    if unit in ("s", "ms"):
        return pc.multiply_checked(values, 10**6 if unit == "s" else 10**3)
    return values if unit == "us" else pc.divide(values, 1000)


def fits(values: pa.Array, unit: str) -> pa.Array:
    """Boolean array: whether `to_microseconds` can hold each value; nulls and NaN count as yes."""
    if pt.is_null(values.type) or pt.is_date32(values.type):
        return pa.array(np.ones(len(values), dtype=bool))
    if not is_number(values.type):
        unit = values.type.unit if pt.is_timestamp(values.type) else "ms"
        values = values.cast(pa.int64())
    seconds = pc.divide(values.cast(pa.float64(), safe=False), _PER_SECOND[unit])
    furthest = _FURTHEST_SECONDS_NS if unit == "ns" else _FURTHEST_SECONDS
    return pc.fill_null(pc.or_(pc.is_nan(seconds), pc.less_equal(pc.abs(seconds), furthest)), True)


def readable(microseconds: int) -> str:
    """A date and time in UTC for people, such as `2023-05-01 12:00:00`."""
    try:
        return (_EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%d %H:%M:%S")
    except OverflowError:
        return f"{microseconds} microseconds from 1970"
