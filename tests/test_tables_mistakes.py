"""Wrong tables are told in one line: files that are damaged, columns of another type, values out of place."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_case import complaint, events, impressions, items, write

from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, open_table


def not_utf8(*values: bytes) -> pa.Array:
    data = pa.array(values)
    return pa.Array.from_buffers(pa.string(), len(data), data.buffers())


def test_a_missing_path_and_a_folder_without_parquet_are_told(tmp_path: Path) -> None:
    assert f"{tmp_path}/no.parquet: no such file" in complaint(tmp_path / "no.parquet", ITEMS)
    assert "holds no Parquet file" in complaint(tmp_path, ITEMS)
    assert "no such file" in complaint(Path("a\0b"), ITEMS)


def test_files_that_are_not_whole_parquet_files_are_told(tmp_path: Path) -> None:
    whole = items(tmp_path / "items.parquet").read_bytes()
    (tmp_path / "text.parquet").write_text("item_id,title\n1,shoe\n")
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "mangled.parquet").write_bytes(whole[:-40] + b"\xff" * 32 + whole[-8:])
    assert "text.parquet: not a Parquet file" in complaint(tmp_path / "text.parquet", ITEMS)
    assert "empty.parquet: the file is empty" in complaint(tmp_path / "empty.parquet", ITEMS)
    assert "cut.parquet: the Parquet file is cut off" in complaint(tmp_path / "cut.parquet", ITEMS)
    assert "mangled.parquet: cannot be read" in complaint(tmp_path / "mangled.parquet", ITEMS)


def test_damage_inside_the_data_names_the_file(tmp_path: Path) -> None:
    ids = [f"{i}-{'x' * 50}" for i in range(1000)]
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ids, "title": ids}), path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[40:2000] = b"\x00" * 1960
    path.write_bytes(data)
    assert "items.parquet: is damaged" in complaint(path, ITEMS)


def test_a_table_without_rows_is_refused_but_one_empty_file_of_a_folder_is_fine(tmp_path: Path) -> None:
    empty = pa.array([], pa.string())
    path = items(tmp_path / "1.parquet", item_id=empty, title=empty)
    assert "1.parquet: the items table has no rows" in complaint(path, ITEMS)
    items(tmp_path / "2.parquet")
    assert open_table(tmp_path, ITEMS).count_rows() == 3


def test_a_missing_column_is_told_with_what_is_there(tmp_path: Path) -> None:
    told = complaint(write(tmp_path / "i.parquet", itemid=["a"], title=["A"]), ITEMS)
    assert "i.parquet: column 'item_id' is missing" in told
    assert "it has itemid, title" in told
    assert "rename 'itemid'" in told
    assert "'query_text or query_image' is missing" in complaint(
        write(tmp_path / "s.parquet", item_id=["a"]), SEARCHES
    )
    assert "column 'device' is missing" in complaint(
        impressions(tmp_path / "x.parquet", [0]), IMPRESSIONS, "device"
    )


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("item_id", [1, 2, 3], "int64, expected string: ids are strings, never numbers; cast it"),
        ("item_id", [b"1", b"2", b"3"], "binary, expected string"),
        ("title", [1.0, 2.0, 3.0], "double, expected string"),
        ("image", ["a.png", "b.png", "c.png"], "string, expected struct<bytes: binary, path: string>"),
        ("image", [{"url": "x"}] * 3, "expected struct<bytes: binary, path: string>"),
        ("images", [{"path": "x"}] * 3, "expected list<struct"),
        ("attributes", [{"colour": "red"}] * 3, "expected map<string, string>"),
        ("attributes", [[{"key": "a", "value": 1}]] * 3, "expected map<string, string>"),
    ],
)
def test_a_wrong_type_is_told(tmp_path: Path, column: str, values: list[Any], expected: str) -> None:
    told = complaint(items(tmp_path / "i.parquet", **{column: values}), ITEMS)
    assert f"i.parquet: column '{column}' is " in told
    assert expected in told


def test_times_and_labels_as_text_are_wrong_types(tmp_path: Path) -> None:
    path = events(tmp_path / "e.parquet", ["2023-05-01"])
    assert "e.parquet: column 'timestamp' is string, expected timestamp" in complaint(path, EVENTS)
    path = impressions(tmp_path / "i.parquet", ["0", "1"])
    assert "i.parquet: column 'label' is string, expected integers 0 and 1" in complaint(path, IMPRESSIONS)


def test_null_and_empty_ids_are_told_with_the_row_of_their_own_file(tmp_path: Path) -> None:
    items(tmp_path / "1.parquet")
    items(tmp_path / "2.parquet", item_id=["x", "y", None])
    assert "2.parquet: row 2, column 'item_id': found null;" in complaint(tmp_path, ITEMS)
    items(tmp_path / "2.parquet", item_id=["x", "y", ""])
    assert "2.parquet: row 2, column 'item_id': found '';" in complaint(tmp_path, ITEMS)
    assert "row 0, column 'item_id': found null" in complaint(
        items(tmp_path / "3.parquet", item_id=pa.nulls(3)), ITEMS
    )


@pytest.mark.parametrize("bad", [2, -1, 0.5, float("nan"), None])
def test_labels_other_than_0_and_1_are_told(tmp_path: Path, bad: float | None) -> None:
    told = complaint(impressions(tmp_path / "i.parquet", [0, 1, 1, bad]), IMPRESSIONS)
    assert "i.parquet: row 3, column 'label': found " in told
    assert f"found {'null' if bad is None else bad}" in told
    assert "expected 0 or 1" in told


def test_a_duplicate_item_names_both_rows(tmp_path: Path) -> None:
    path = items(tmp_path / "1.parquet", item_id=["a", "b", "a"])
    told = complaint(path, ITEMS)
    assert "1.parquet: row 0 and row 2: duplicate item_id 'a'" in told
    items(tmp_path / "1.parquet", item_id=["x", "y", "z"])
    items(tmp_path / "2.parquet", item_id=["u", "z", "v"])
    assert re.search(
        r"/1\.parquet: row 2 and \S+/2\.parquet: row 1: duplicate item_id 'z'", complaint(tmp_path, ITEMS)
    )
    assert open_table(tmp_path, ITEMS).read(["title"]).num_rows == 6


@pytest.mark.alone
def test_duplicates_among_a_million_ids_are_found_quickly(tmp_path: Path) -> None:
    ids = np.char.mod("item-%07d", np.arange(1_000_000))
    ids[-1] = ids[3]
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ids, "title": pa.nulls(len(ids), pa.string())}), path)
    started = time.perf_counter()
    assert "row 3 and row 999999" in complaint(path, ITEMS, "item_id")
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("encode", [False, True])
def test_text_that_is_not_utf8_is_told(tmp_path: Path, encode: bool) -> None:
    text = not_utf8(b"ok", "é".encode(), b"caf\xe9")
    if encode:
        text = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), text)
    told = complaint(items(tmp_path / "i.parquet", title=text), ITEMS)
    assert "i.parquet: row 2, column 'title': found b'caf\\xe9'; expected UTF-8" in told


def test_text_that_is_not_utf8_is_found_inside_attributes_and_paths(tmp_path: Path) -> None:
    bad = not_utf8(b"a", b"b", b"\xff")
    attributes = pa.MapArray.from_arrays([0, 1, 2, 3], pa.array(["x", "y", "z"]), bad)
    told = complaint(items(tmp_path / "i.parquet", attributes=attributes), ITEMS)
    assert "row 2, column 'attributes'" in told
    told = complaint(items(tmp_path / "j.parquet", image=pa.StructArray.from_arrays([bad], ["path"])), ITEMS)
    assert "row 2, column 'image'" in told


def test_an_attribute_without_a_key_is_told(tmp_path: Path) -> None:
    pairs = [[{"key": "a", "value": "1"}], [], [{"key": "b", "value": None}, {"key": None, "value": "2"}]]
    told = complaint(items(tmp_path / "i.parquet", attributes=pairs), ITEMS)
    assert "i.parquet: row 2, column 'attributes'" in told


def test_files_of_a_folder_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    impressions(tmp_path / "1.parquet", [0], price=[1])
    impressions(tmp_path / "2.parquet", [1], price=["cheap"])
    told = complaint(tmp_path, IMPRESSIONS)
    assert "2.parquet: column 'price' is string, but int64 in" in told
    assert "1.parquet" in told


def test_a_long_value_is_shortened_and_has_no_line_break(tmp_path: Path) -> None:
    path = items(tmp_path / "i.parquet", attributes=[[{"key": None, "value": "x\n" * 500}], [], []])
    assert len(complaint(path, ITEMS)) < 300 + len(str(path))
