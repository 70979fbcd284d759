"""Which rows are run, under which options, in which cells, and which are left out and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moonrec.ablation.study import STUDIES, Row, Study
from moonrec.errors import UserError
from moonrec.study.settings import near

Resolve = Callable[[Mapping[str, str]], dict[str, Any]]
"""From flags, as text, to all options of a training that decide its result, as JSON has them."""

ALL = "all"


@dataclass(frozen=True)
class PlannedRow:
    """A row that is run.

    Attributes:
        study: that it belongs to.
        row: what it is.
        flags: all flags, as text.
        options: all options that decide its result.
        cell: the folder of its cells; rows with the same flags share one.
    """

    study: Study
    row: Row
    flags: Mapping[str, str]
    options: Mapping[str, Any]
    cell: str

    @property
    def key(self) -> str:
        """Its name among the rows of all studies."""
        return key_of(self.study, self.row)

    @property
    def against(self) -> str | None:
        """The key of the row that it is compared with."""
        return f"{self.study.name}-{self.row.against}" if self.row.against else None


@dataclass(frozen=True)
class LeftOut:
    """A row that is not run, and why."""

    study: str
    row: str
    label: str
    reason: str


def key_of(study: Study, row: Row) -> str:
    """A row's name among the rows of all studies."""
    return f"{study.name}-{row.name}"


def chosen_studies(name: str) -> list[Study]:
    """The studies that `--study` names.

    Raises:
        UserError: there is none of that name.
    """
    if name == ALL:
        return list(STUDIES.values())
    if name not in STUDIES:
        raise UserError(f"--study {name}: no such study; {near(name, [*STUDIES, ALL])}")
    return [STUDIES[name]]


def plan_rows(
    studies: Sequence[Study],
    names: Sequence[str],
    settings: Mapping[str, str],
    item_columns: Collection[str],
    resolve: Resolve,
) -> tuple[list[PlannedRow], list[LeftOut]]:
    """Choose the rows and settle their options, before anything is computed.

    Args:
        studies: of `chosen_studies`.
        names: the rows wanted, all if empty; what they are compared with comes along.
        settings: options of `moonrec posttrain` for all rows.
        item_columns: of the items table.
        resolve: see `Resolve`; it raises a `UserError` for options that are none.

    Raises:
        UserError: a row that no study has, or options that cannot be.
    """
    known = {row.name for study in studies for row in study.rows}
    for name in names:
        if name not in known:
            raise UserError(f"--rows {name}: no such row of {_listed(studies)}; {near(name, known)}")
    planned: list[PlannedRow] = []
    left_out: list[LeftOut] = []
    for study in studies:
        rows = {row.name: row for row in study.rows}
        wanted = {row.name for row in study.rows if not names or row.name in names}
        wanted |= {against for name in wanted if (against := rows[name].against)}
        options: dict[str, dict[str, Any]] = {}
        for row in (row for row in study.rows if row.name in wanted):
            flags = _flags(study, row, settings)
            if row.item_columns and not set(row.item_columns) & set(item_columns):
                reason = f"the items table has no column {' or '.join(row.item_columns)}"
                left_out.append(LeftOut(study.name, row.name, row.label, reason))
                continue
            options[row.name] = resolve(flags)
            if row.against and options[row.name] == options.get(row.against):
                reason = f"--set gives {rows[row.against].label} the same options"
                left_out.append(LeftOut(study.name, row.name, row.label, reason))
                continue
            planned.append(PlannedRow(study, row, flags, options[row.name], _cell(flags, settings)))
    return planned, left_out


def _listed(studies: Sequence[Study]) -> str:
    return ", ".join(study.name for study in studies)


def _flags(study: Study, row: Row, settings: Mapping[str, str]) -> dict[str, str]:
    return {**study.recipe, **settings, **row.options}


def _cell(flags: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """The first row of any study, chosen or not, with these flags: its cells are found again by all."""
    rows = ((study, row) for study in STUDIES.values() for row in study.rows)
    return next(key_of(s, r) for s, r in rows if _flags(s, r, settings) == flags)
