"""Small tables of every kind, and what is told of those that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moonrec.errors import UserError
from moonrec.tables import TableSpec, open_table

NOON = 1_700_000_000  # seconds


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def items(path: Path, **columns: Any) -> Path:
    return write(path, **({"item_id": ["a", "b", "c"], "title": ["A", "B", None]} | columns))


def events(path: Path, timestamp: Any, **columns: Any) -> Path:
    ids = [str(i) for i in range(len(timestamp))]
    return write(path, **({"user_id": ids, "item_id": ids, "timestamp": timestamp} | columns))


def impressions(path: Path, label: Any, **columns: Any) -> Path:
    return events(path, [NOON] * len(label), label=label, **columns)


def read_all(path: Path, spec: TableSpec, columns: tuple[str, ...]) -> None:
    table = open_table(path, spec)
    table.read(columns or table.column_names)


def complaint(path: Path, spec: TableSpec, *columns: str) -> str:
    with pytest.raises(UserError) as caught:
        read_all(path, spec, columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)
