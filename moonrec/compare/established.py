"""Rates that a run itself calls not established: their numbers are not shown as results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from moonrec.compare.numbers import Numbers, short

_RATE, _ESTABLISHED, _REASON = ".slope", ".established", ".why_not"


def without_unestablished(numbers: Numbers) -> tuple[Numbers, Mapping[str, str]]:
    """The numbers, None in place of each slope that does not stand as established, and why by its name."""
    why_not = {
        name: _reason(numbers, name.removesuffix(_RATE))
        for name in numbers.values
        if name.endswith(_RATE) and numbers.values.get(name.removesuffix(_RATE) + _ESTABLISHED) is not True
    }
    return replace(
        numbers,
        values={name: None if name in why_not else value for name, value in numbers.values.items()},
        intervals={name: pair for name, pair in numbers.intervals.items() if name not in why_not},
    ), why_not


def _reason(numbers: Numbers, rate: str) -> str:
    reason = numbers.values.get(rate + _REASON)
    return f"not established: {short(reason)}" if isinstance(reason, str) and reason else "not established"
