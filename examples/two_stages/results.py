"""Numbers of several seeds as tables: mean ± standard deviation, for the terminal and for a page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from moonrec.report import Cell, format_value
from moonrec.text_tables import markdown_table

Numbers: TypeAlias = Mapping[str, float | None]
"""What one seed gave, by column."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) over seeds; None where there is none."""

    mean: float | None
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread:
        """That of the values that are known."""
        known = [value for value in values if value is not None]
        differ = len(set(known)) > 1
        return cls(
            statistics.mean(known) if known else None,
            statistics.stdev(known) if differ else None,
        )


class SeedTable:
    """A table that is filled line by line, seed by seed.

    Args:
        title: what it shows.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.values: dict[str, dict[str, list[float | None]]] = {}

    def add(self, name: str, numbers: Numbers) -> None:
        """Add what a seed gave for a line."""
        line = self.values.setdefault(name, {})
        for column, value in numbers.items():
            line.setdefault(column, []).append(value)

    def spread(self, name: str, column: str) -> Spread:
        """Of one number."""
        return Spread.of(self.values[name].get(column, []))

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [
            {"": name} | {column: _text(self.spread(name, column)) for column in self._columns()}
            for name in self.values
        ]
        return "\n".join([f"{self.title}:", "", *markdown_table(lines)])

    def cells(self) -> list[dict[str, object]]:
        """The rows for a page; the best mean of each column stands out."""
        rows: list[dict[str, object]] = [{"": name} for name in self.values]
        for column in self._columns():
            spreads = [self.spread(name, column) for name in self.values]
            best = max((one.mean for one in spreads if one.mean is not None), default=0.0)
            for row, one in zip(rows, spreads, strict=True):
                row[column] = Cell(one.mean, _deviation(one), marked=0 < best == one.mean)
        return rows

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(column for line in self.values.values() for column in line))


def _text(spread: Spread) -> str:
    return f"{format_value(spread.mean)} {_deviation(spread)}".rstrip()


def _deviation(spread: Spread) -> str:
    return "" if spread.sd is None else f"± {format_value(spread.sd)}"
