"""Tables as Markdown, for the `table.md` of experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def markdown_table(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """The lines of a table whose columns are those of the first row."""
    columns = list(lines[0])
    rows = ([line[name].replace("|", "\\|") for name in columns] for line in lines)
    return [_row(columns), "|---" * len(columns) + "|", *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
