"""The numbers of `metrics.json` as one flat list, whatever their nesting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moonrec.report import format_value

# The key under which an object holds the confidence intervals of its own numbers.
INTERVALS = "ci"
# Keys of the interval of the number that stands before them.
_BOUNDS = (("ci_low", "ci_high"), ("low", "high"))
_MAX_LEAVES = 5000
_MAX_TEXT = 200
_MAX_DEPTH = 12
_LISTED = 20
_DRAWABLE = 1e100


@dataclass
class Numbers:
    """The leaves of a run's metrics.

    Attributes:
        values: numbers and short texts by dotted name, such as `retrieval.image_to_item.hit@10`.
        intervals: (low, high) of those that have a confidence interval, by the same names.
        complete: whether all leaves are in; a run with very many is cut.
    """

    values: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    complete: bool = True


def numbers_of(metrics: Mapping[str, Any]) -> Numbers:
    """All leaves of `metrics`; lists of objects are named by the texts that each object begins with."""
    found = Numbers()
    for name, value in _leaves(metrics, (), 0):
        if len(found.values) + len(found.intervals) >= _MAX_LEAVES:
            found.complete = False
            break
        if isinstance(value, tuple):
            found.intervals[name] = value
        else:
            found.values[name] = value
    return found


def _leaves(value: Any, before: tuple[str, ...], depth: int) -> Iterator[tuple[str, Any]]:
    name = ".".join(before)
    if isinstance(value, Mapping):
        if depth > _MAX_DEPTH:
            yield name, "…"
            return
        low, high, bounded = _bounds(value)
        for key, inner in value.items():
            if key == INTERVALS and isinstance(inner, Mapping):
                yield from _intervals(inner, before)
            elif key == low:
                yield ".".join((*before, bounded)), (float(inner), float(value[high]))
            elif key != high:
                yield from _leaves(inner, (*before, str(key)), depth + 1)
    elif is_rows(value):
        naming = set(_naming_keys(value))
        for key, row in zip(row_names(value), value, strict=True):
            rest = {k: v for k, v in row.items() if k not in naming}
            yield from _leaves(rest, (*before, key), depth + 1)
    elif isinstance(value, list):
        yield name, list_text(value)
    else:
        yield name, short(value) if isinstance(value, str) else value


def _bounds(value: Mapping[str, Any]) -> tuple[str | None, str | None, str]:
    """The keys of an interval, and that of the number before them, to which it belongs; None without any."""
    keys = list(value)
    for low, high in _BOUNDS:
        if interval_of([value.get(low), value.get(high)]):
            before = keys[max(keys.index(low) - 1, 0)]
            if before != low and is_finite_number(value[before]):
                return low, high, str(before)
    return None, None, ""


def _intervals(found: Mapping[str, Any], before: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, pair in found.items():
        interval = interval_of(pair)
        if interval is not None:
            yield ".".join((*before, str(key))), interval


def interval_of(value: Any) -> tuple[float, float] | None:
    """A list of two finite numbers as an interval; None for anything else."""
    if isinstance(value, list) and len(value) == 2 and all(map(is_finite_number, value)):
        return float(value[0]), float(value[1])
    return None


def is_rows(value: Any) -> bool:
    """Whether a value is a list of objects, as a table is."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def is_finite_number(value: Any) -> bool:
    """Whether a value is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_drawable(value: Any) -> bool:
    """Whether a number may stand in a plot: beyond that Matplotlib's own arithmetic overflows."""
    return is_finite_number(value) and abs(value) < _DRAWABLE


def _naming_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first keys whose texts tell the objects apart; none where they begin with something else."""
    keys: list[str] = []
    for key in rows[0]:
        if not all(isinstance(row.get(key), str) for row in rows):
            break
        keys.append(key)
        if len({tuple(row[name] for name in keys) for row in rows}) == len(rows):
            return keys
    return []


def row_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells the objects of a list apart: the texts, or else the whole number, that they begin with;
    otherwise their places from 1."""
    keys = _naming_keys(rows)
    if keys:
        return [" ".join(short(row[key]) for key in keys) for row in rows]
    first = next(iter(rows[0]), "")
    found = [row.get(first) for row in rows]
    numbers = [
        one for one in found if isinstance(one, int | float) and is_finite_number(one) and one == int(one)
    ]
    if len(numbers) == len(set(numbers)) == len(rows):
        return [f"{short(str(first))} {format_value(int(one))}" for one in numbers]
    return [str(place) for place in range(1, len(rows) + 1)]


def list_text(values: Sequence[Any]) -> str:
    """The first values of a list, as a short text."""
    shown = ", ".join(format_value(value) for value in values[:_LISTED])
    return short(shown + (", …" if len(values) > _LISTED else ""))


def short(text: str) -> str:
    """A text of at most 200 letters."""
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
