"""The columns of a table's files held against what the table needs, and against each other."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.types as pt

from moonrec.errors import UserError
from moonrec.parquet_files import ParquetPart
from moonrec.table_spec import NORMAL_TYPES, Kind, TableSpec, extra_type, type_advice
from moonrec.timestamps import is_number

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def check_columns(part: ParquetPart, spec: TableSpec) -> None:
    """Refuse a file without a required column, or with one of a wrong type.

    Raises:
        UserError: names the file and the column, and the nearest name that is there.
    """
    names = part.schema.names
    for column in spec.columns:
        if column.name in names:
            dtype = part.schema.field(column.name).type
            if advice := type_advice(column.kind, dtype):
                raise UserError(f"{part.path}: column {column.name!r} is {dtype}, {advice}")
        elif column.required:
            raise UserError(missing_column(part.path, column.name, names))
    if spec.one_of and not set(spec.one_of) & set(names):
        raise UserError(missing_column(part.path, " or ".join(spec.one_of), names))


def missing_column(path: Path, name: str, names: Sequence[str]) -> str:
    """The message for a column that is not there: what is, and the nearest name."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; rename {near[0]!r} if that is it" if near else "; add it, or check that this is the right file"
    return f"{path}: column {name!r} is missing, it has {', '.join(sorted(names)[:40])}{hint}"


def common_schema(parts: list[ParquetPart], spec: TableSpec) -> pa.Schema:
    """Normalised schema of all files together, the spec's columns first.

    A column that is optional or extra may be missing from some files; its rows there are null.

    Raises:
        UserError: the files contradict each other.
    """
    if spec.has_clock:
        _check_one_clock(parts)
    known = [column.name for column in spec.columns]
    names = list(dict.fromkeys(name for part in parts for name in part.schema.names))
    fields = []
    for name in [n for n in known if n in names] + [n for n in names if n not in known]:
        kind = spec.column(name).kind
        if kind is not Kind.EXTRA:
            fields.append(pa.field(name, NORMAL_TYPES[kind]))
        elif not _PANDAS_INDEX.fullmatch(name):
            fields.append(_common_extra(parts, name))
    return pa.schema(fields)


def _common_extra(parts: list[ParquetPart], name: str) -> pa.Field:
    having = [part for part in parts if name in part.schema.names]
    field = pa.field(name, pa.null())
    for part in having:
        dtype = extra_type(part.schema.field(name).type)
        try:
            unified = pa.unify_schemas(
                [pa.schema([field]), pa.schema([pa.field(name, dtype)])], promote_options="permissive"
            )
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            raise UserError(
                f"{part.path}: column {name!r} is {dtype}, but {field.type} in {having[0].path}; "
                "files of one table need one type, cast one of them"
            ) from None
        field = unified.field(name)
    return field


def _check_one_clock(parts: list[ParquetPart]) -> None:
    """Plain numbers in one file and timestamps in another leave the numbers' unit to guesswork."""
    clocks = [(part, type_of(part.schema, "timestamp")) for part in parts if part.rows]
    clocks = [(part, dtype) for part, dtype in clocks if not pt.is_null(dtype)]
    for part, dtype in clocks[1:]:
        if is_number(dtype) != is_number(clocks[0][1]):
            raise UserError(
                f"{part.path}: column 'timestamp' is {dtype}, but {clocks[0][1]} in {clocks[0][0].path}; "
                "store timestamps in all files of the table"
            )


def type_of(schema: pa.Schema, name: str) -> pa.DataType:
    """Type of a column; `null` if there is no such column."""
    return schema.field(name).type if name in schema.names else pa.null()
