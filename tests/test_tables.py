from __future__ import annotations

import datetime as dt
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonrec import parquet_files
from moonrec.errors import UserError
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, TableSpec, check_same_clock, open_table
from moonrec.timestamps import readable

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


def not_utf8(*values: bytes) -> pa.Array:
    data = pa.array(values)
    return pa.Array.from_buffers(pa.string(), len(data), data.buffers())


def times(path: Path) -> list[int]:
    return open_table(path, EVENTS).read(["timestamp"])["timestamp"].to_pylist()


# --- what can be read ---


def test_values_come_normalised_in_file_order(tmp_path: Path) -> None:
    image = pa.array([{"path": "x.png"}, None, {"path": None}], pa.struct([("path", pa.large_string())]))
    pairs = pa.array(
        [[{"key": "colour", "value": "red"}], None, []],
        pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())])),
    )
    path = items(
        tmp_path / "items.parquet",
        item_id=pa.array(["007", "07", "7"], pa.large_string()),
        category=pa.array(["x", None, "x"]).dictionary_encode(),
        description=pa.array(["d", "e", "f"], pa.string_view()),
        image=image,
        images=pa.array([[{"path": "y", "bytes": b"1"}], [], None], pa.large_list(_swapped())),
        attributes=pairs,
        product_id=pa.nulls(3),
        brand=pa.array(["n", "m", None]).dictionary_encode(),
        price=[1.5, None, 2.0],
    )
    table = open_table(path, ITEMS)
    data = table.read(table.column_names)
    assert table.column_names[:2] == ("item_id", "title")
    assert table.column_names[-2:] == ("brand", "price")
    assert data["item_id"].to_pylist() == ["007", "07", "7"]
    assert {data.schema.field(n).type for n in ("item_id", "category", "description", "brand")} == {
        pa.string()
    }
    assert data["image"].to_pylist() == [
        {"bytes": None, "path": "x.png"},
        None,
        {"bytes": None, "path": None},
    ]
    assert data["images"].to_pylist() == [[{"bytes": b"1", "path": "y"}], [], None]
    assert data["attributes"].to_pylist() == [[("colour", "red")], None, []]
    assert data["product_id"].null_count == 3
    assert data["price"].to_pylist() == [1.5, None, 2.0]


def _swapped() -> pa.DataType:
    return pa.struct([("path", pa.string()), ("bytes", pa.large_binary())])


def test_a_folder_is_read_by_name_without_hidden_files(tmp_path: Path) -> None:
    for name, item in (("b.parquet", "2"), ("sub/c.parquet", "3"), ("a.parquet", "1")):
        items(tmp_path / name, item_id=[item], title=["t"])
    for name in (".hidden.parquet", "_metadata.parquet", "_temporary/x.parquet"):
        items(tmp_path / name)
    (tmp_path / "readme.txt").write_text("pictures and notes may lie beside")
    table = open_table(tmp_path, ITEMS)
    assert table.read(["item_id"])["item_id"].to_pylist() == ["1", "2", "3"]
    assert table.count_rows() == 3
    assert table.folder == tmp_path
    assert open_table(tmp_path / "a.parquet", ITEMS).folder == tmp_path


def test_an_optional_column_missing_from_one_file_is_null_there(tmp_path: Path) -> None:
    items(tmp_path / "1.parquet", item_id=["a"], title=["A"], category=["x"], price=pa.array([1], pa.int32()))
    items(tmp_path / "2.parquet", item_id=["b"], title=["B"])
    items(tmp_path / "3.parquet", item_id=["c"], title=["C"], price=[2.5])
    data = open_table(tmp_path, ITEMS).read(["category", "price"])
    assert data["category"].to_pylist() == ["x", None, None]
    assert data["price"].to_pylist() == [1.0, None, 2.5]


def test_batches_respect_the_size_and_shrink_for_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "BATCH_BYTES", 2**20)
    picture = [{"bytes": np.random.default_rng(i).bytes(2**17), "path": None} for i in range(20)]
    ids = [str(i) for i in range(20)]
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ids, "title": ids, "image": picture}), path)
    table = open_table(path, ITEMS)
    assert [b.num_rows for b in table.batches(["title"], batch_size=15)] == [15, 5]
    sizes = [batch.num_rows for batch in table.batches(["item_id", "image"])]
    assert sum(sizes) == 20
    assert max(sizes) <= 8


@pytest.mark.parametrize("values", [[0, 1, 1], [False, True, True], [0.0, 1.0, 1.0]])
def test_labels_of_every_number_type_become_int8(tmp_path: Path, values: list[Any]) -> None:
    table = open_table(impressions(tmp_path / "i.parquet", values), IMPRESSIONS)
    label = table.read(["label"])["label"]
    assert label.type == pa.int8()
    assert label.to_pylist() == [0, 1, 1]


def test_the_fingerprint_tells_content_and_names_but_not_the_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        items(tmp_path / place / "a.parquet", item_id=["1", "2", "3"])
    prints = [open_table(tmp_path / place, ITEMS).fingerprint() for place in ("one", "two")]
    assert prints[0] == prints[1]
    items(tmp_path / "two" / "b.parquet", item_id=["x", "y", "z"])
    assert open_table(tmp_path / "two", ITEMS).fingerprint() != prints[0]


# --- timestamps ---


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("dtype", [pa.int64(), pa.float64(), pa.uint64()])
def test_numbers_are_understood_in_any_unit(tmp_path: Path, scale: int, dtype: pa.DataType) -> None:
    stored = pa.array([NOON * scale, (NOON + 5) * scale], pa.int64()).cast(dtype, safe=False)
    assert times(events(tmp_path / "e.parquet", stored)) == [NOON * 10**6, (NOON + 5) * 10**6]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_timestamps_of_any_unit_and_zone_become_utc_microseconds(
    tmp_path: Path, unit: str, zone: str | None
) -> None:
    stored = pa.array([NOON], pa.timestamp("s", zone)).cast(pa.timestamp(unit, zone))
    assert times(events(tmp_path / "e.parquet", stored)) == [NOON * 10**6]


def test_dates_and_fractions_of_seconds_and_times_before_1970_are_kept(tmp_path: Path) -> None:
    assert times(events(tmp_path / "d.parquet", [dt.date(1970, 1, 2)])) == [86_400 * 10**6]
    assert times(events(tmp_path / "f.parquet", [NOON + 0.25])) == [NOON * 10**6 + 250_000]
    assert times(events(tmp_path / "n.parquet", [-5, 0, 7])) == [-5_000_000, 0, 7_000_000]


@given(st.lists(st.integers(-(10**10), 10**11 - 1), min_size=1, max_size=30))
def test_seconds_keep_their_order_and_value(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[int]
) -> None:
    path = events(tmp_path_factory.mktemp("t") / "e.parquet", pa.array(seconds, pa.int64()))
    assert times(path) == [second * 10**6 for second in seconds]


@pytest.mark.parametrize("statistics", [True, False])
def test_two_units_in_one_table_are_refused_with_one_value_of_each(tmp_path: Path, statistics: bool) -> None:
    stamps = [NOON, NOON + 1, NOON + 2, (NOON + 3) * 1000]
    ids = ["x"] * 4
    path = tmp_path / "e.parquet"
    table = pa.table({"user_id": ids, "item_id": ids, "timestamp": stamps})
    pq.write_table(table, path, row_group_size=2, write_statistics=statistics)
    told = complaint(path, EVENTS, "timestamp")
    assert f"e.parquet: row 3: {(NOON + 3) * 1000}" in told
    assert f"row 0: {NOON}" in told
    assert "looks like ms" in told
    assert "like s" in told


def test_two_units_in_two_files_are_refused_naming_both(tmp_path: Path) -> None:
    events(tmp_path / "1.parquet", [NOON])
    events(tmp_path / "2.parquet", [NOON * 1000])
    told = complaint(tmp_path, EVENTS, "timestamp")
    assert "1.parquet: row 0" in told
    assert "2.parquet: row 0" in told


def test_the_first_batch_does_not_decide_the_unit_alone(tmp_path: Path) -> None:
    path = events(tmp_path / "e.parquet", [NOON] * 5 + [NOON * 1000])
    with pytest.raises(UserError, match="row 5"):
        next(iter(open_table(path, EVENTS).batches(["timestamp"], batch_size=2)))


def test_timestamp_files_of_different_units_go_together_but_not_with_numbers(tmp_path: Path) -> None:
    events(tmp_path / "1.parquet", pa.array([NOON], pa.timestamp("s")))
    events(tmp_path / "2.parquet", pa.array([NOON * 10**9], pa.timestamp("ns", "UTC")))
    assert times(tmp_path) == [NOON * 10**6] * 2
    events(tmp_path / "3.parquet", [NOON])
    told = complaint(tmp_path, EVENTS)
    assert "3.parquet: column 'timestamp' is int64" in told
    assert "1.parquet" in told


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        (pa.array([NOON, None]), "null"),
        (pa.array([float(NOON), float("nan")]), "nan"),
        (pa.array([NOON, None], pa.timestamp("us")), "null"),
    ],
)
def test_a_missing_time_has_no_place_in_the_order(tmp_path: Path, stored: pa.Array, value: str) -> None:
    told = complaint(events(tmp_path / "e.parquet", stored), EVENTS)
    assert f"e.parquet: row 1, column 'timestamp': found {value};" in told
    assert "no place in the order" in told


@pytest.mark.parametrize(
    "stored",
    [
        pa.array([0, -(10**17)]),
        pa.array([0.0, float("inf")]),
        pa.array([0, 2**62], pa.timestamp("ms")),
        pa.array([10**18, 2**64 - 1], pa.uint64()),
    ],
)
def test_a_time_outside_of_all_calendars_is_refused(tmp_path: Path, stored: pa.Array) -> None:
    assert "row 1, column 'timestamp'" in complaint(events(tmp_path / "e.parquet", stored), EVENTS)


def test_times_are_optional_in_searches(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.parquet", item_id=["a", "b"], query_text=["x", "y"], timestamp=[None, float(NOON)]
    )
    table = open_table(path, SEARCHES)
    assert table.read(["timestamp"])["timestamp"].to_pylist() == [None, NOON * 10**6]
    assert table.time_range == (NOON * 10**6, NOON * 10**6)


def test_tables_of_two_eras_are_refused(tmp_path: Path) -> None:
    old = open_table(events(tmp_path / "old.parquet", [1000, 2000]), EVENTS)
    new = open_table(events(tmp_path / "new.parquet", [NOON]), EVENTS)
    check_same_clock([new, new])
    with pytest.raises(UserError, match=r"old\.parquet.*1970.*new\.parquet.*2023"):
        check_same_clock([old, new])


def test_times_are_readable_even_where_no_calendar_reaches() -> None:
    assert readable(NOON * 10**6) == "2023-11-14 22:13:20"
    assert "microseconds" in readable(10**18)


def test_an_extra_column_of_that_name_is_no_clock(tmp_path: Path) -> None:
    table = open_table(items(tmp_path / "i.parquet", timestamp=["never", None, "ever"]), ITEMS)
    assert table.time_range is None
    assert table.read(["timestamp"])["timestamp"].to_pylist() == ["never", None, "ever"]


# --- mistakes ---


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
