"""A few rows of a table: the very rows that the whole table has there, and no more read than these need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moonrec.errors import UserError
from moonrec.table_rows import only_rows
from moonrec.table_spec import IMAGE_TYPE
from moonrec.tables import ITEMS, Table, open_table

COLUMNS = ["item_id", "title", "image"]


def write_items(folder: Path, files: list[int], group: int, image_bytes: int = 20) -> Table:
    """A folder of files of so many rows, in row groups of `group`; the pictures are noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    first = 0
    for number, rows in enumerate(files):
        ids = range(first, first + rows)
        table = pa.table(
            {
                "item_id": pa.array([f"i{row}" for row in ids], pa.string()),
                "title": pa.array([f"title {row}" for row in ids], pa.string()),
                "image": pa.array([{"bytes": rng.bytes(image_bytes), "path": None} for _ in ids], IMAGE_TYPE),
            }
        )
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=group, compression="none")
        first += rows
    return open_table(folder, ITEMS)


def read(table: Table, batch_size: int = 65_536) -> list[dict[str, object]]:
    return [row for batch in table.batches(COLUMNS, batch_size) for row in batch.to_pylist()]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    group=st.integers(1, 6),
    batch=st.integers(1, 7),
    data=st.data(),
)
def test_they_are_the_rows_of_the_whole_table(
    tmp_path: Path, files: list[int], group: int, batch: int, data: st.DataObject
) -> None:
    table = write_items(tmp_path / "items", files, group)
    rows = sorted(data.draw(st.sets(st.integers(0, sum(files) - 1))))
    few = only_rows(table, np.array(rows, np.int64))
    whole = read(table)
    assert few.count_rows() == len(rows)
    assert read(few, batch) == [whole[row] for row in rows]
    assert [few.address(place) for place in range(len(rows))] == [table.address(row) for row in rows]


def test_row_groups_without_a_wanted_row_are_not_read(tmp_path: Path) -> None:
    table = write_items(tmp_path / "items", [30], group=10, image_bytes=500)
    whole = read(table)
    (file,) = (tmp_path / "items").iterdir()
    content = bytearray(file.read_bytes())
    middle = table.parts[0].metadata.row_group(1)
    chunks = [middle.column(i) for i in range(middle.num_columns)]
    start = min(chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks)
    content[start : start + sum(chunk.total_compressed_size for chunk in chunks)] = bytes(
        sum(chunk.total_compressed_size for chunk in chunks)
    )
    file.write_bytes(bytes(content))
    assert read(only_rows(table, np.array([3, 29]))) == [whole[3], whole[29]]
    with pytest.raises(UserError, match="is damaged"):
        read(only_rows(table, np.array([3, 15])))


def test_columns_that_cost_too_much_are_left_out_and_others_kept(tmp_path: Path) -> None:
    table = write_items(tmp_path / "items", [100], group=100, image_bytes=1_000)
    cheap = only_rows(table, np.array([4]), ("image",), 20_000)
    costly = only_rows(table, np.array([94]), ("image",), 20_000)
    assert cheap.column_names == ("item_id", "title", "image")
    assert costly.column_names == ("item_id", "title")
    assert costly.read(["title"]).column("title").to_pylist() == ["title 94"]


def test_a_bad_value_is_told_with_its_address_in_the_file(tmp_path: Path) -> None:
    ids = pa.array(["a", "b", "", "d"])
    pq.write_table(pa.table({"item_id": ids, "title": ids}), tmp_path / "items.parquet")
    table = open_table(tmp_path / "items.parquet", ITEMS)
    assert only_rows(table, np.array([3])).read(["item_id"]).column("item_id").to_pylist() == ["d"]
    with pytest.raises(UserError, match=r"items\.parquet: row 2, column 'item_id'"):
        only_rows(table, np.array([1, 2])).read(["item_id"])


def test_rows_that_are_not_there_are_refused(tmp_path: Path) -> None:
    table = write_items(tmp_path / "items", [3], group=3)
    assert read(only_rows(table, np.zeros(0, np.int64))) == []
    for rows in ([3], [-1, 0]):
        with pytest.raises(IndexError, match="of a table of 3"):
            only_rows(table, np.array(rows))
