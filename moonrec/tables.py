"""Tables in: Parquet files or folders of them, checked while they are read, one clear line per mistake.

`open_table` looks at names and types, `Table.batches` at every value that it hands out. Values come
normalised: ids and text as `string`, times as int64 microseconds since 1970 UTC, labels as int8, pictures as
`struct<bytes: binary, path: string>`, attributes as `map<string, string>`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moonrec.errors import UserError
from moonrec.parquet_files import ParquetPart, open_part, parquet_paths
from moonrec.table_schema import check_columns, common_schema, missing_column, type_of
from moonrec.table_spec import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, TableSpec
from moonrec.table_values import BadValue, normalise, shown
from moonrec.timestamps import finite, first_of_each_unit, is_number, readable, unit_of

__all__ = [
    "EVENTS",
    "IMPRESSIONS",
    "ITEMS",
    "SEARCHES",
    "Table",
    "TableSpec",
    "check_same_clock",
    "open_table",
]

_TWENTY_YEARS_US = 20 * 365 * 24 * 3600 * 10**6


def open_table(path: str | Path, spec: TableSpec) -> Table:
    """Open a Parquet file or a folder of Parquet files as one of our tables; checks names and types only.

    Raises:
        UserError: nothing there, not Parquet, damaged, no rows, a required column missing, a wrong type, or
            files of the folder that contradict each other.
    """
    path = Path(path)
    parts = [open_part(file) for file in parquet_paths(path)]
    if not any(part.rows for part in parts):
        raise UserError(f"{path}: the {spec.name} table has no rows; expected at least one")
    for part in parts:
        check_columns(part, spec)
    return Table(path, spec, parts, common_schema(parts, spec))


class Table:
    """One checked table; made by `open_table`. Nothing is kept in memory but schemas."""

    def __init__(self, path: Path, spec: TableSpec, parts: list[ParquetPart], schema: pa.Schema) -> None:
        self.path = path
        self.spec = spec
        self.schema = schema
        self.parts = parts
        self._is_unique = False

    @property
    def folder(self) -> Path:
        """The folder that relative image paths start from."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns that are there: those of the spec first, then the extra ones."""
        return tuple(self.schema.names)

    def count_rows(self) -> int:
        """Number of rows, from the files' footers."""
        return sum(part.rows for part in self.parts)

    def address(self, row: int) -> str:
        """Where a row of the table lies, for messages: `events/part-1.parquet: row 17`."""
        path, row_of_file = self._locate(row)
        return f"{path}: row {row_of_file}"

    def pair_of_rows(self, first: int, second: int) -> str:
        """Where two rows lie, for messages: `items.parquet: row 3 and row 17`."""
        other, row = self._locate(second)
        same_file = other == self._locate(first)[0]
        return f"{self.address(first)} and {f'row {row}' if same_file else self.address(second)}"

    def batches(self, columns: Sequence[str], batch_size: int = 65536) -> Iterator[pa.RecordBatch]:
        """Yield checked and normalised batches of these columns, in file order.

        Batches with pictures hold fewer rows than `batch_size`, so that one stays around 64 MiB. Reading the
        items' `item_id` looks for duplicates in the whole column first.

        Raises:
            UserError: a column is not there, a file is damaged, or a value may not stand there.
        """
        self._check_present(columns)
        return self._checked(columns, batch_size)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All checked batches of these columns as one Arrow table (not for pictures)."""
        self._check_present(columns)
        schema = pa.schema([self.schema.field(name) for name in columns])
        return pa.Table.from_batches(self.batches(columns), schema)

    def fingerprint(self) -> str:
        """SHA-256, hex, over the names (relative to the table) and contents of its files."""
        return self._fingerprint

    @cached_property
    def time_range(self) -> tuple[int, int] | None:
        """Earliest and latest timestamp in microseconds since 1970 UTC; None without any."""
        if not self.spec.has_clock or "timestamp" not in self.schema.names:
            return None
        extremes = [pc.min_max(batch["timestamp"]) for batch in self._batches(["timestamp"], 2**18)]
        lows = [e["min"].as_py() for e in extremes if e["min"].is_valid]
        highs = [e["max"].as_py() for e in extremes if e["max"].is_valid]
        return (min(lows), max(highs)) if lows else None

    @cached_property
    def _fingerprint(self) -> str:
        total = hashlib.sha256()
        for part in self.parts:
            name = part.path.relative_to(self.path).as_posix() if self.path.is_dir() else part.path.name
            with open(part.path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{len(name)}:{name}:{content}\n".encode())
        return total.hexdigest()

    @cached_property
    def _unit(self) -> str:
        """Unit of timestamps that are plain numbers, from all of them (seconds if there are none)."""
        ranges = []
        for part in self.parts:
            if part.rows and is_number(type_of(part.schema, "timestamp")):
                ranges.append(_number_range(part))
        units = {unit_of(number) for pair in ranges if pair is not None for number in pair}
        if len(units) > 1:
            self._raise_mixed_units()
        return units.pop() if units else "s"

    def _locate(self, row: int) -> tuple[Path, int]:
        for part in self.parts:
            if row < part.rows:
                return part.path, row
            row -= part.rows
        raise IndexError(row)

    def _check_present(self, columns: Sequence[str]) -> None:
        for name in columns:
            if name not in self.schema.names:
                raise UserError(missing_column(self.path, name, self.schema.names))

    def _checked(self, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        if self.spec.unique is not None and self.spec.unique in columns:
            self._check_unique(self.spec.unique)
        yield from self._batches(columns, batch_size)

    def _batches(self, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([self.schema.field(name) for name in columns])
        unit = self._unit if self.spec.has_clock and "timestamp" in columns else "s"
        for part in self.parts:
            present = [name for name in columns if name in part.schema.names]
            for first, batch in part.batches(present, batch_size):
                arrays = [self._column(part, first, batch, field, unit) for field in schema]
                yield pa.record_batch(arrays, schema=schema)

    def _column(
        self, part: ParquetPart, first: int, batch: pa.RecordBatch, field: pa.Field, unit: str
    ) -> pa.Array:
        if field.name not in batch.schema.names:
            return pa.nulls(batch.num_rows, field.type)
        try:
            return normalise(batch[field.name], self.spec.column(field.name), field.type, unit)
        except BadValue as bad:
            where = f"{part.path}: row {first + bad.row}, column {field.name!r}"
            raise UserError(f"{where}: found {bad.value}; {bad.advice}") from None

    def _check_unique(self, name: str) -> None:
        if self._is_unique:
            return
        ids = pa.chunked_array([b[name].cast(pa.large_string()) for b in self._batches([name], 2**18)])
        if len(pc.unique(ids)) < len(ids):
            first, second = _first_repetition(ids)
            raise UserError(
                f"{self.pair_of_rows(first, second)}: duplicate {name} {shown(ids[first].as_py())}; "
                "each may occur once, drop one of the two"
            )
        self._is_unique = True

    def _raise_mixed_units(self) -> None:
        seen: dict[str, str] = {}
        for part in self.parts:
            for first, batch in part.batches(["timestamp"], 2**16):
                for unit, row in first_of_each_unit(batch["timestamp"]).items():
                    number = batch["timestamp"][row].as_py()
                    seen.setdefault(unit, f"{part.path}: row {first + row}: {number}")
                if len(seen) > 1:
                    (one_unit, one), (other_unit, other) = list(seen.items())[:2]
                    raise UserError(
                        f"{other} in column 'timestamp' looks like {other_unit}, but {one} like {one_unit}; "
                        "give all of them one unit, or store timestamps"
                    )


def check_same_clock(tables: Sequence[Table]) -> None:
    """Refuse tables whose times cannot belong together: no overlap, and more than 20 years between them.

    Raises:
        UserError: two tables that are that far apart, as happens when one of them was read in a wrong unit.
    """
    ranges = [(table, table.time_range) for table in tables]
    timed = [(table, times) for table, times in ranges if times is not None]
    for (one, (start, end)), (other, (other_start, other_end)) in combinations(timed, 2):
        if max(start, other_start) - min(end, other_end) > _TWENTY_YEARS_US:
            raise UserError(
                f"{one.path}: its times run from {readable(start)} to {readable(end)}, those of "
                f"{other.path} from {readable(other_start)} to {readable(other_end)}; "
                "expected one era, check the unit of the timestamps"
            )


def _number_range(part: ParquetPart) -> tuple[float, float] | None:
    """Smallest and largest finite number in the timestamps: by the file's statistics, otherwise by a scan."""
    told = part.number_range("timestamp")
    if told is not None and np.isfinite(told).all():
        return told
    numbers: list[float] = []
    for _, batch in part.batches(["timestamp"], 2**18):
        extremes = pc.min_max(finite(batch["timestamp"]))
        numbers += [extremes[k].as_py() for k in ("min", "max") if extremes[k].is_valid]
    return (min(numbers), max(numbers)) if numbers else None


def _first_repetition(ids: pa.ChunkedArray) -> tuple[int, int]:
    """Rows of the first id that occurs a second time: its first occurrence, its second."""
    codes = np.concatenate(
        [c.indices.to_numpy() for c in ids.dictionary_encode().unify_dictionaries().chunks]
    )
    _, firsts = np.unique(codes, return_index=True)
    is_first = np.zeros(len(codes), dtype=bool)
    is_first[firsts] = True
    second = int(np.flatnonzero(~is_first)[0])
    return int(firsts[codes[second]]), second
