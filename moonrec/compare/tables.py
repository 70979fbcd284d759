"""The nested numbers of one run as tables: objects of one form become the rows of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moonrec.compare.measures import label_of
from moonrec.compare.numbers import INTERVALS, interval_of, is_rows, list_text, row_names, short
from moonrec.report import Cell, format_value

Row = dict[str, Any]
_Object = Mapping[str, Any]
_MAX_DEPTH, _MAX_COLUMNS = 8, 24
# An object of at most so many plain values is written into the row of the object that holds it.
_SMALL = 6
# Objects share a table when at least this share of it is filled, and it lies down up to so many columns.
_FILLED, _UPRIGHT = 0.75, 5
# Numbers that may be fractions and mostly are none.
_COUNTED = ("x", "epochs", "passes", "samples")


def tables_of(metrics: _Object) -> Iterator[tuple[str, list[Row]]]:
    """Captions and rows of tables that hold all of `metrics`, level by level."""
    yield from _tables(metrics, ())


def interval_text(interval: tuple[float, float] | None) -> str:
    """An interval as a quiet note; empty without one."""
    return "" if interval is None else " to ".join(map(format_value, interval))


def _tables(value: _Object, place: tuple[str, ...]) -> Iterator[tuple[str, list[Row]]]:
    objects = {str(key): one for key, one in value.items() if isinstance(one, Mapping) and key != INTERVALS}
    flat = {key: row for key, one in objects.items() if (row := _row(one))}
    joined = _alike(list(flat.values()))
    plain = _plain(value) if joined else _row(value)
    if plain:
        yield _caption(place), [{"": label_of(name), "value": one} for name, one in plain.items()]
    if joined:
        yield _caption(place), _laid_out(flat)
    for name, one in value.items() if len(place) < _MAX_DEPTH else ():
        key = str(name)
        if is_rows(one):
            yield from _list_tables(one, (*place, key))
        elif key in objects and (joined or not _is_small(one)):
            yield from _tables(_rest(one) if joined else one, (*place, key))


def _list_tables(rows: Sequence[_Object], place: tuple[str, ...]) -> Iterator[tuple[str, list[Row]]]:
    names = row_names(rows)
    found = {name: _row(row) for name, row in zip(names, rows, strict=True)}
    if any(found.values()):
        columns = _columns(list(found.values()))
        upright = len(columns) > max(len(rows), _UPRIGHT)
        yield _caption(place), _laid_out(found) if upright else _with(columns, found.values())
    for name, row in zip(names, rows, strict=True):
        yield from _tables(_rest(row), (*place, name))


def _laid_out(rows: Mapping[str, Row]) -> list[Row]:
    """Named rows, turned where they would be wide: long tables fit a phone, wide ones do not."""
    columns = _columns(list(rows.values()))
    if len(columns) > max(len(rows), _UPRIGHT):
        return [{"": label_of(c)} | {name: row.get(c) for name, row in rows.items()} for c in columns]
    return [{"": name} | one for name, one in zip(rows, _with(columns, rows.values()), strict=True)]


def _with(columns: Sequence[str], rows: Sequence[Row] | Any) -> list[Row]:
    return [{label_of(column): row.get(column) for column in columns} for row in rows]


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))[:_MAX_COLUMNS]


def _alike(rows: Sequence[Row]) -> bool:
    """Whether objects have so much in common that one table holds them."""
    cells = len(rows) * len({column for row in rows for column in row})
    return len(rows) > 1 and sum(map(len, rows)) >= _FILLED * cells


def _rest(value: _Object) -> dict[str, Any]:
    """What of an object is not in its row."""
    return {key: one for key, one in _nested(value).items() if not _is_small(one)}


def _nested(value: _Object) -> dict[str, Any]:
    """The objects and tables in an object."""
    return {
        str(key): one
        for key, one in value.items()
        if is_rows(one) or (isinstance(one, Mapping) and key != INTERVALS)
    }


def _is_small(value: Any) -> bool:
    """Whether an object holds a few plain values and nothing else."""
    return isinstance(value, Mapping) and not _nested(value) and len(_plain(value)) <= _SMALL


def _row(value: _Object) -> Row:
    """The plain values of an object and of the small objects in it, by dotted names."""
    row = _plain(value)
    for key, one in _nested(value).items():
        if _is_small(one):
            row |= {f"{key}.{name}": inner for name, inner in _plain(one).items()}
    return row


def _plain(value: _Object) -> Row:
    """The plain values of an object, with the intervals that stand beside them."""
    intervals = value.get(INTERVALS)
    row: Row = {}
    for key, one in value.items():
        if isinstance(one, Mapping) or is_rows(one) or one == []:
            continue
        interval = interval_of(intervals.get(key)) if isinstance(intervals, Mapping) else None
        row[str(key)] = Cell(_shown(str(key), one), interval_text(interval))
    return row


def _shown(name: str, value: Any) -> Any:
    # A count or a setting has no decimals to show.
    if isinstance(value, float) and value.is_integer() and name in _COUNTED:
        return int(value)
    if isinstance(value, list):
        return list_text(value)
    return short(value) if isinstance(value, str) else value


def _caption(place: tuple[str, ...]) -> str:
    return label_of(".".join(place)) if place else "The run as a whole"
