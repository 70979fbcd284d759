"""Look at everything in a data folder before anybody trains on it: tables, pictures, ids, times, coverage.

`validate` does not stop at the first mistake: it collects what it finds, and what the tables hold, into a
report for people (`lines`) and for scripts (`to_dict`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moonrec.errors import UserError
from moonrec.parquet_files import PARQUET_SUFFIXES, parquet_paths
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, TableSpec, open_table
from moonrec.validation_across import across_tables
from moonrec.validation_images import check_pictures
from moonrec.validation_tables import LoadedTable, Problem, inspect, load, percent

__all__ = ["Problem", "ValidationReport", "validate"]

_SPECS = {spec.name: spec for spec in (ITEMS, EVENTS, IMPRESSIONS, SEARCHES)}
_IDS = ("item_id", "user_id", "timestamp", "label")
_EXPECTED = {"items": ("title", "image", "category", "attributes")}
_NAMES = "items*.parquet, events*.parquet, impressions*.parquet, searches*.parquet, or folders of these names"


@dataclass
class ValidationReport:
    """What `validate` found: the problems, and per table its rows, columns, time range and shares."""

    path: Path
    problems: list[Problem] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing that was found is an error."""
        return all(problem.severity != "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values: `path`, `ok`, `counts`, `problems`, `tables`."""
        return {
            "path": str(self.path),
            "ok": self.ok,
            "counts": self._counts(),
            "problems": [vars(problem) for problem in self.problems],
            "tables": self.tables,
        }

    def lines(self) -> list[str]:
        """The report for people: a paragraph per table, the problems with errors first, the sum."""
        text: list[str] = []
        for name, facts in self.tables.items():
            text += _table_lines(name, facts)
        order = ("error", "warning", "note")
        text += [str(problem) for problem in sorted(self.problems, key=lambda p: order.index(p.severity))]
        counts = ", ".join(
            f"{count} {severity}{'s' * (count != 1)}" for severity, count in self._counts().items()
        )
        return [*text, f"{self.path}: {'good' if self.ok else 'not good'} ({counts})"]

    def _counts(self) -> dict[str, int]:
        counts = Counter(problem.severity for problem in self.problems)
        return {severity: counts[severity] for severity in ("error", "warning", "note")}


def validate(path: str | Path) -> ValidationReport:
    """Check a folder of tables, or a single table whose kind its name tells.

    Tables are the Parquet files and folders called `items`, `events`, `impressions` or `searches`, with any
    ending (`impressions_train.parquet`); other files are left alone. Pictures are opened one batch at a time.

    Returns:
        The report; mistakes in the data are in it and are never raised.
    """
    report = ValidationReport(Path(path))
    try:
        found = _find_tables(report.path)
    except (UserError, OSError) as error:
        report.problems.append(Problem("error", str(path), str(error)))
        return report
    loaded: list[LoadedTable] = []
    for table_path, spec in found:
        try:
            loaded.append(load(open_table(table_path, spec)))
        except UserError as error:
            report.problems.append(Problem("error", str(table_path), str(error)))
    for table in loaded:
        report.problems += table.problems + inspect(table)
        report.problems += check_pictures(table)
        report.tables[table.path.name] = table.facts
    report.problems += across_tables(loaded)
    return report


def _find_tables(path: Path) -> list[tuple[Path, TableSpec]]:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected a folder with {_NAMES}")
    inside = list(_named_tables(path)) if path.is_dir() and path.name not in _SPECS else []
    if inside:
        return inside
    if (spec := _kind(path)) is None:
        raise UserError(f"{path}: no table that a name tells; expected a folder with {_NAMES}")
    return [(path, spec)]


def _named_tables(folder: Path) -> Iterator[tuple[Path, TableSpec]]:
    for entry in sorted(folder.iterdir()):
        if (spec := _kind(entry)) is not None:
            yield entry, spec


def _kind(path: Path) -> TableSpec | None:
    """The table that the name tells; a folder whose name goes on (`items_new`) has to hold Parquet files."""
    name = path.name.lower()
    if not path.is_dir():
        if not name.endswith(PARQUET_SUFFIXES):
            return None
        name = path.stem.lower()
    for kind, spec in _SPECS.items():
        if name == kind or name == f"{kind}.parquet":
            return spec
        if (
            name.startswith(kind)
            and not name[len(kind)].isalnum()
            and (path.is_file() or _holds_parquet(path))
        ):
            return spec
    return None


def _holds_parquet(folder: Path) -> bool:
    try:
        return bool(parquet_paths(folder))
    except UserError:
        return False


def _table_lines(name: str, facts: dict[str, Any]) -> list[str]:
    times = facts.get("time_range")
    head = f"{name}: {facts['rows']:,} rows" + (f", {times[0]} to {times[1]} UTC" if times else "")
    head += "".join(f", {facts[key]:,} {key}" for key in ("users", "items") if key in facts)
    head += f", label rate {facts['label_rate']:.4f}" if "label_rate" in facts else ""
    filled = [f"{column} {percent(share)}" for column, share in facts["filled"].items() if column not in _IDS]
    absent = [f"no {column}" for column in _EXPECTED.get(facts["kind"], ()) if column not in facts["columns"]]
    return [head, f"  filled: {', '.join(filled + absent)}"] if filled or absent else [head]
