from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from moonrec.validation import ValidationReport, validate

DAY = 86_400
START = 1_700_000_000


def picture(seed: int, form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def image(data: bytes | None = None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


GOOD: dict[str, dict[str, Any]] = {
    "items": {
        "item_id": ["a", "b", "c"],
        "title": ["A", "B", "C"],
        "image": [image(picture(i)) for i in range(3)],
        "images": [[image(picture(3), "x")], [], None],
        "category": ["x > y", "x", None],
        "attributes": [[{"key": "k", "value": "v"}], [], None],
    },
    "events": {
        "user_id": ["u", "v", "u"],
        "item_id": ["a", "b", "c"],
        "timestamp": [START, START + 1, START + DAY],
    },
    "impressions_train": {
        "user_id": ["u", "v", "u"],
        "item_id": ["a", "b", "c"],
        "timestamp": [START + 2, START + 3, START + 4],
        "label": [0, 1, 0],
    },
    "impressions_test": {
        "user_id": ["u", "v"],
        "item_id": ["a", "c"],
        "timestamp": [START + 4, START + 5],
        "label": [1, 0],
    },
    "searches": {
        "query_text": ["red", None],
        "query_image": [None, image(picture(9, "PNG"))],
        "item_id": ["a", "b"],
        "negative_item_id": ["b", None],
    },
}


def write(folder: Path, **changes: dict[str, Any]) -> Path:
    """The good tables with some columns of some of them replaced; a column of None is left out."""
    for name, columns in GOOD.items():
        changed = {k: v for k, v in (columns | changes.get(name, {})).items() if v is not None}
        pq.write_table(pa.table(changed), folder / f"{name}.parquet")
    return folder


def found(report: ValidationReport, severity: str) -> list[str]:
    return [str(problem) for problem in report.problems if problem.severity == severity]


def only(folder: Path, severity: str, ok: bool, **changes: dict[str, Any]) -> str:
    """The one problem that these changes make."""
    report = validate(write(folder, **changes))
    assert report.ok is ok
    assert len(report.problems) == 1, report.lines()
    (message,) = found(report, severity)
    assert "\n" not in message
    return message


def test_good_tables_have_no_problem_and_are_summed_up(tmp_path: Path) -> None:
    write(tmp_path)
    pq.write_table(pa.table({"anything": [1]}), tmp_path / "truth_items.parquet")
    (tmp_path / "items_pictures").mkdir()
    report = validate(tmp_path)
    assert report.ok
    assert report.problems == []
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert sorted(told["tables"]) == sorted(f"{name}.parquet" for name in GOOD)
    items, train = told["tables"]["items.parquet"], told["tables"]["impressions_train.parquet"]
    assert items["rows"] == 3
    assert items["columns"]["item_id"] == "string"
    assert items["filled"]["image"] == 1
    for column in ("images", "attributes"):
        assert items["filled"][column] == pytest.approx(1 / 3)
    assert items["filled"]["category"] == pytest.approx(2 / 3)
    assert train["label_rate"] == pytest.approx(1 / 3)
    assert train["users"] == 2
    assert train["time_range"] == ["2023-11-14 22:13:22", "2023-11-14 22:13:24"]
    text = "\n".join(report.lines())
    assert "items.parquet: 3 rows" in text
    assert "category 66.6 %" in text
    assert "good (0 errors, 0 warnings, 0 notes)" in text


def test_a_single_table_and_a_folder_of_files_are_told_by_their_names(tmp_path: Path) -> None:
    write(tmp_path)
    assert list(validate(tmp_path / "events.parquet").tables) == ["events.parquet"]
    (tmp_path / "events").mkdir()
    for part in ("1", "2"):
        pq.write_table(pa.table(GOOD["events"]), tmp_path / "events" / f"{part}.parquet")
    assert validate(tmp_path / "events").tables["events"]["rows"] == 6
    assert len(validate(tmp_path).tables) == len(GOOD) + 1


def test_places_without_tables_are_an_error_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "other.parquet").touch()
    for path in (tmp_path / "missing", tmp_path, tmp_path / "other.parquet"):
        report = validate(path)
        assert not report.ok
        assert "expected a folder with items*.parquet" in found(report, "error")[0]


def test_it_goes_on_after_an_error(tmp_path: Path) -> None:
    write(
        tmp_path,
        items={"item_id": ["a", "b", "a"]},
        events={"user_id": ["u", None, "w"], "timestamp": [START, START, START * 1000]},
        impressions_train={"label": [0, 1, 2]},
    )
    (tmp_path / "searches.parquet").write_bytes(b"PAR1 and no more")
    report = validate(tmp_path)
    errors = "\n".join(found(report, "error"))
    assert len(found(report, "error")) == 5
    assert "items.parquet: row 0 and row 2: duplicate item_id 'a'" in errors
    assert "events.parquet: row 1, column 'user_id': found null" in errors
    assert "events.parquet: row 2: 1700000000000" in errors
    assert "impressions_train.parquet: row 2, column 'label': found 2" in errors
    assert "searches.parquet: the Parquet file is cut off" in errors
    assert "impressions_test.parquet" in report.tables


def test_broken_pictures_are_warnings_with_item_and_reason(tmp_path: Path) -> None:
    cells = [image(picture(0)[:200]), image(path="gone.jpg"), image(picture(1))]
    report = validate(write(tmp_path, items={"image": cells}))
    assert report.ok
    cut, gone = found(report, "warning")
    assert "items.parquet: row 0, image of item 'a': " in cut
    assert "row 1, image of item 'b': no file 'gone.jpg'" in gone
    assert report.tables["items.parquet"]["filled"]["image"] == pytest.approx(1 / 3)
    assert report.tables["items.parquet"]["broken_pictures"]["image"] == 2


def test_ten_broken_pictures_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    ids = [f"{i:04d}" for i in range(600)]
    cells = [image(b"nothing" if i % 2 else picture(0)) for i in range(600)]
    pq.write_table(pa.table({"item_id": ids, "title": ids, "image": cells}), tmp_path / "items.parquet")
    report = validate(tmp_path)
    assert len(found(report, "warning")) == 11
    assert "of item '0001'" in found(report, "warning")[0]
    assert "300 pictures of column 'image' cannot be used" in found(report, "warning")[-1]


def test_a_picture_path_that_leaves_the_folder_is_an_error(tmp_path: Path) -> None:
    cells = [image(path="../../etc/passwd"), image(picture(1)), image(picture(2))]
    message = only(tmp_path, "error", False, items={"image": cells})
    assert "row 0, image of item 'a'" in message
    assert "leaves the folder" in message


def test_pictures_beside_the_table_are_found(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").write_bytes(picture(0))
    write(tmp_path, items={"image": [image(path="pictures/1.jpg"), None, None]})
    report = validate(tmp_path)
    assert report.problems == []
    assert report.tables["items.parquet"]["filled"]["image"] == pytest.approx(1 / 3)


def test_unknown_items_are_a_warning_and_none_known_is_an_error(tmp_path: Path) -> None:
    message = only(tmp_path, "warning", True, events={"item_id": ["a", "0", "0"]})
    assert "events.parquet: column 'item_id': 33.3 % of 3 rows" in message
    assert "1 ids are unknown, first '0' at" in message
    assert "row 1" in message
    message = only(tmp_path, "error", False, events={"item_id": ["1", "2", "3"]})
    assert "0 % of 3 rows" in message


def test_unknown_query_items_are_a_warning(tmp_path: Path) -> None:
    message = only(tmp_path, "warning", True, searches={"query_item_id": ["zz", None]})
    assert "column 'query_item_id'" in message
    assert "'zz'" in message


def test_a_search_needs_text_or_a_picture(tmp_path: Path) -> None:
    empty = {"query_text": ["red", " "], "query_image": [None, image()]}
    message = only(tmp_path, "error", False, searches=empty)
    assert "searches.parquet: row 1: a search needs query_text or query_image" in message


def test_a_negative_that_is_the_positive_is_a_warning(tmp_path: Path) -> None:
    message = only(tmp_path, "warning", True, searches={"negative_item_id": [None, "b"]})
    assert "1 rows" in message
    assert "row 1: 'b'" in message


def test_events_out_of_order_are_a_note(tmp_path: Path) -> None:
    message = only(tmp_path, "note", True, events={"timestamp": [START, START - 9, START]})
    assert "not in order of time (first at row 1); sorted on load" in message


def test_a_test_set_before_the_training_set_is_a_note(tmp_path: Path) -> None:
    message = only(tmp_path, "note", True, impressions_test={"timestamp": [START + 3, START + 9]})
    assert "impressions_test.parquet: 50 % of the test impressions are earlier" in message
    assert "impressions_train.parquet" in message


def test_impressions_without_an_earlier_event_are_a_note(tmp_path: Path) -> None:
    message = only(tmp_path, "note", True, impressions_train={"user_id": ["u", "new", "u"]})
    assert "1 of 3 impressions (1 users) have no earlier event" in message
    same_time = {"timestamp": [START, START + 3, START + 4]}
    assert "1 of 3 impressions" in only(tmp_path, "note", True, impressions_train=same_time)


def test_repeated_impressions_are_a_warning(tmp_path: Path) -> None:
    repeated = {
        "user_id": ["u", "v", "u"],
        "item_id": ["a", "b", "a"],
        "timestamp": [START + 2, START + 3, START + 2],
    }
    message = only(tmp_path, "warning", True, impressions_train=repeated)
    assert "impressions_train.parquet: row 0 and row 2" in message
    assert "(1 such impressions)" in message


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class_are_a_warning(tmp_path: Path, label: int) -> None:
    message = only(tmp_path, "warning", True, impressions_test={"label": [label, label]})
    assert f"impressions_test.parquet: every label is {label}" in message


def test_missing_titles_are_a_warning(tmp_path: Path) -> None:
    assert "66.6 % of the items have a title" in only(
        tmp_path, "warning", True, items={"title": ["A", " ", "C"]}
    )


def test_tables_of_two_eras_are_an_error(tmp_path: Path) -> None:
    old = {"timestamp": [1000, 2000, 3000]}
    message = only(tmp_path, "error", False, events=old)
    assert "1970" in message
    assert "2023" in message
