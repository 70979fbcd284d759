"""What can be read of a table: values come normalised, folders are one table, batches have a size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_case import impressions, items

from moonrec import parquet_files
from moonrec.tables import IMPRESSIONS, ITEMS, open_table


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
