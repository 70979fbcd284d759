"""How a page and the terminal show a number."""

from __future__ import annotations

import numbers
from dataclasses import dataclass

# From here on digits are counted, not read.
_HUGE = 1e15


@dataclass(frozen=True)
class Cell:
    """A value of a table with more than itself.

    Attributes:
        value: as without a cell.
        note: shown below it, quietly.
        marked: whether it stands out, as the best of its row does.
    """

    value: object
    note: str = ""
    marked: bool = False


def format_value(value: object) -> str:
    """A number or text as reports and the terminal show it."""
    if value is None:
        return "–"
    if not is_number(value):
        return str(value)
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    number = float(value)  # type: ignore[arg-type]
    if abs(number) >= _HUGE:
        return f"{number:.4g}"
    return f"{number:.4f}" if abs(number) < 100 else f"{number:,.0f}"


def is_number(value: object) -> bool:
    """Python's and NumPy's integers and floats, but not bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
