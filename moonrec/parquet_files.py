"""Parquet files as they lie on disk: found in a fixed order, opened, read batch by batch, errors named.

A table is one file or a folder of files. Every row keeps its address (file, row within that file), because
that is what a person needs in order to mend it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moonrec.errors import UserError

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
_MAGIC = b"PAR1"
# Narrow columns come in batches of the size asked for; pictures in as many rows as fit here.
BATCH_BYTES = 64 * 2**20
_READ_BUFFER = 2**20


@dataclass(frozen=True)
class ParquetPart:
    """One Parquet file of a table."""

    path: Path
    rows: int
    schema: pa.Schema
    metadata: pq.FileMetaData

    def batches(self, columns: Sequence[str], batch_size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (first row, batch) in file order, the values as they are stored.

        Batches of wide rows (pictures) are smaller than `batch_size`, so that one stays around 64 MiB.

        Raises:
            UserError: the file is damaged.
        """
        size = max(1, min(batch_size, int(BATCH_BYTES / max(1.0, self._bytes_per_row(columns)))))
        first = 0
        with told(self.path, "is damaged"), open_file(self.path) as file:
            for batch in file.iter_batches(batch_size=size, columns=list(columns)):
                yield first, batch.select(columns)
                first += batch.num_rows

    def number_range(self, column: str) -> tuple[float, float] | None:
        """Smallest and largest number in the column by the file's statistics; None if they do not tell."""
        lows, highs = [], []
        for group in range(self.metadata.num_row_groups):
            row_group = self.metadata.row_group(group)
            chunks = (row_group.column(i) for i in range(row_group.num_columns))
            statistics = next((c.statistics for c in chunks if c.path_in_schema == column), None)
            if statistics is None or not statistics.has_min_max:
                return None
            lows.append(statistics.min)
            highs.append(statistics.max)
        return (min(lows), max(highs)) if lows else None

    def _bytes_per_row(self, columns: Sequence[str]) -> float:
        widest = 0.0
        for group in range(self.metadata.num_row_groups):
            row_group = self.metadata.row_group(group)
            chunks = (row_group.column(i) for i in range(row_group.num_columns))
            size = sum(
                chunk.total_uncompressed_size
                for chunk in chunks
                if chunk.path_in_schema.split(".")[0] in columns or chunk.path_in_schema in columns
            )
            widest = max(widest, size / max(1, row_group.num_rows))
        return widest


def parquet_paths(path: Path) -> list[Path]:
    """The Parquet files that `path` (a file, or a folder searched recursively) stands for, sorted by name.

    Names that start with a dot or an underscore are left out, as in every Parquet reader.

    Raises:
        UserError: `path` does not exist, or is a folder without Parquet files.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise UserError(
            f"{path}: no such file or folder; expected a Parquet file or a folder of them"
        ) from None
    if stat.S_ISREG(mode):
        return [path]
    if not stat.S_ISDIR(mode):
        raise UserError(f"{path}: not an ordinary file; expected a Parquet file or a folder of them")
    found: list[Path] = []
    for folder, subfolders, names in os.walk(path, onerror=_refuse_unreadable):
        subfolders[:] = [name for name in subfolders if not _hidden(name)]
        found += [Path(folder) / n for n in names if n.lower().endswith(PARQUET_SUFFIXES) and not _hidden(n)]
    if not found:
        raise UserError(f"{path}: this folder holds no Parquet file (*.parquet); check the path")
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def open_part(path: Path) -> ParquetPart:
    """Read the footer of a Parquet file.

    Raises:
        UserError: it is unreadable, not Parquet, cut off, or has two columns of one name.
    """
    with told(path, "cannot be read as Parquet"):
        _check_magic(path)
        with open_file(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: column {repeated[0]!r} occurs twice; rename or drop one of them")
    return ParquetPart(path, metadata.num_rows, schema, metadata)


def _check_magic(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(len(_MAGIC))
        file.seek(-min(size, len(_MAGIC)), os.SEEK_END)
        end = file.read(len(_MAGIC))
    if not start:
        raise UserError(f"{path}: the file is empty (0 bytes); expected Parquet, write it again")
    if start != _MAGIC:
        raise UserError(f"{path}: not a Parquet file (it starts with {start!r}); convert it to Parquet")
    if end != _MAGIC:
        raise UserError(f"{path}: the Parquet file is cut off (its end is missing); copy or write it again")


@contextmanager
def open_file(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file with the settings that hostile and very large files want."""
    # pre_buffer would hold whole row groups of pictures in memory. Asked for large binary, pyarrow leaves
    # dictionaries undone, whose reader would stop at text that is not UTF-8 without telling the row.
    with pq.ParquetFile(
        path, pre_buffer=False, buffer_size=_READ_BUFFER, binary_type=pa.large_binary()
    ) as file:
        yield file


@contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Turn what pyarrow and the disk raise into one line about `path`."""
    try:
        yield
    except pa.ArrowMemoryError:
        raise  # no fault of the file's
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: {what} ({reason}); copy or write it again") from error


def _refuse_unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: this folder cannot be read ({error.strerror}); check its permissions")


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))
