"""Times of a table: units are understood, never mixed, and have a place in the order."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_case import NOON, complaint, events, items, write

from moonrec.errors import UserError
from moonrec.tables import EVENTS, ITEMS, SEARCHES, check_same_clock, open_table
from moonrec.timestamps import readable


def times(path: Path) -> list[int]:
    return open_table(path, EVENTS).read(["timestamp"])["timestamp"].to_pylist()


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
