"""Validation of pictures: every one is read and decoded, a batch at a time, on all cores."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moonrec.errors import UserError
from moonrec.images import BrokenImage, decode_image, image_bytes
from moonrec.progress import progress
from moonrec.table_spec import Kind
from moonrec.table_values import shown
from moonrec.validation_tables import PICTURES, LoadedTable, Problem, Severity, text_given

_LISTED = 10
_ROWS = 256
# JPEGs are decoded at a reduced scale: a cut-off file shows there as well, in a fraction of the time.
_DRAFT_SIZE = 32


@dataclass(frozen=True)
class _Pictures:
    """One row's pictures: how many can be used, and what is wrong with the others."""

    usable: int = 0
    faults: tuple[tuple[Severity, str], ...] = ()


def check_pictures(loaded: LoadedTable) -> list[Problem]:
    """Open every picture of a table; adds the share of rows with a usable one to `loaded.facts["filled"]`.

    Returns:
        The first ten broken pictures and the first ten paths that leave the folder, and the totals; for
        searches also the rows that have neither text nor picture.
    """
    problems: list[Problem] = []
    for column in loaded.table.column_names:
        if loaded.table.spec.column(column).kind in PICTURES:
            try:
                problems += _check_column(loaded, column)
            except UserError as error:
                problems.append(loaded.problem("error", str(error)))
    if loaded.kind == "searches":
        problems += _empty_searches(loaded)
    return problems


def _check_column(loaded: LoadedTable, column: str) -> Iterator[Problem]:
    table, counts, usable_rows = loaded.table, Counter[Severity](), 0
    results = progress(_opened(loaded, column), f"{loaded.path.name}: {column}", total=table.count_rows())
    for row, found in enumerate(results):
        usable_rows += found.usable > 0
        for severity, reason in found.faults:
            counts[severity] += 1
            if counts[severity] <= _LISTED:
                yield loaded.problem(
                    severity, f"{table.address(row)}, {column}{_of_item(loaded, row)}: {reason}"
                )
    for severity, count in counts.items():
        if count > _LISTED:
            yield loaded.problem(
                severity,
                f"{count:,} pictures of column {column!r} cannot be used; the first {_LISTED} are listed",
            )
    loaded.facts["filled"][column] = usable_rows / table.count_rows()
    loaded.facts.setdefault("broken_pictures", {})[column] = sum(counts.values())


def _opened(loaded: LoadedTable, column: str) -> Iterator[_Pictures]:
    several = loaded.table.spec.column(column).kind is Kind.IMAGES
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in loaded.table.batches([column], batch_size=_ROWS):
            cells = batch[column].to_pylist()
            rows = [cell or [] for cell in cells] if several else [[cell] for cell in cells]
            yield from pool.map(partial(_open_row, folder=loaded.table.folder), rows)


def _open_row(cells: Sequence[dict[str, Any] | None], folder: Path) -> _Pictures:
    usable, faults = 0, list[tuple[Severity, str]]()
    for cell in cells:
        try:
            data = image_bytes(cell, folder)
            if data is not None:
                decode_image(data, draft_size=_DRAFT_SIZE)
                usable += 1
        except BrokenImage as error:
            faults.append(("warning", str(error)))
        except UserError as error:
            faults.append(("error", str(error)))
    return _Pictures(usable, tuple(faults))


def _of_item(loaded: LoadedTable, row: int) -> str:
    return f" of item {shown(loaded.columns['item_id'][row].as_py())}" if loaded.has("item_id") else ""


def _empty_searches(loaded: LoadedTable) -> Iterator[Problem]:
    names = [name for name in ("query_text", "query_image") if name in loaded.table.column_names]
    try:
        masks = [_asks(batch) for batch in loaded.table.batches(names)]
    except UserError:  # a value is in disorder, which its own column's check has told
        return
    (empty,) = np.nonzero(~np.concatenate(masks))
    if len(empty):
        yield loaded.problem(
            "error",
            f"{loaded.table.address(int(empty[0]))}: a search needs query_text or query_image "
            f"and has neither ({len(empty):,} such rows); fill one or drop the row",
        )


def _asks(batch: pa.RecordBatch) -> np.ndarray:
    """Boolean array of shape (rows,): whether a row says what is searched."""
    asks = np.zeros(batch.num_rows, dtype=bool)
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        if name == "query_text":
            asks |= text_given(values)
        else:
            fields = (pc.struct_field(values, field) for field in ("bytes", "path"))
            asks |= np.logical_or(*(field.is_valid().to_numpy(zero_copy_only=False) for field in fields))
    return asks
