"""Zero-shot categories and attributes: right labels, no answer in the input, metrics by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoder_helpers import CPU, busy_encoder, picture, write_table

from encoders.encoding import encode
from encoders.evaluate import EvaluateConfig, evaluate
from encoders.evaluation.label_sets import LabelSet, attribute_label_sets, category_label_sets
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.evaluation.zero_shot import ITEM_VIEW, predict, scores
from encoders.products import Aspect, Product, iter_items
from moonrec.errors import UserError
from moonrec.table_spec import ATTRIBUTES_TYPE
from moonrec.tables import ITEMS, Table, open_table

WORDS = ("red dress", "blue chair", "oak table", "wool scarf", "steel lamp")
CATEGORIES = ("Home > Lamps", "Home > Chairs", "Wear > Scarves", "Wear > Dresses > Long")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> WorkingEncoder:
    folder = tmp_path_factory.mktemp("labels") / "encoder"
    busy_encoder().save_pretrained(folder)
    return WorkingEncoder.start(str(folder), None, CPU, cache)


def catalogue(folder: Path, rows: list[dict[str, Any]]) -> Table:
    folder.mkdir(exist_ok=True)
    named = [{"item_id": f"i{n}", "title": f"{WORDS[n % 5]} {n}"} | row for n, row in enumerate(rows)]
    return open_table(write_table(folder / "items.parquet", named), ITEMS)


def shop_rows(count: int = 24, shift: int = 0) -> list[dict[str, Any]]:
    """Items of some categories and colours; another `shift` gives every item another of either."""
    return [
        {
            "image": None if n % 8 else picture(n),
            "description": f"number {n}",
            "category": CATEGORIES[(n + shift) % 4],
            "attributes": {"colour": ("red", "green", "blue")[(n + shift) % 3]},
        }
        for n in range(count)
    ]


def of_item(labels: LabelSet) -> dict[int, str]:
    """The right label of each item judged."""
    return {
        item: labels.labels[label]
        for item, label in zip(labels.item_J.tolist(), labels.class_J.tolist(), strict=True)
    }


def test_categories_are_labels_level_by_level(tmp_path: Path) -> None:
    values = ["A > B > C", "A >  D ", None, "", "E", "A > B", " > ", "E > B > C"]
    sets, left_out = category_label_sets(catalogue(tmp_path, [{"category": value} for value in values]))
    assert [one.name for one in sets] == ["level1", "level2"]
    assert of_item(sets[0]) == {0: "A", 1: "A", 4: "E", 5: "A", 7: "E"}
    assert of_item(sets[1]) == {0: "B", 1: "D", 5: "B", 7: "B"}
    assert left_out == {"level3": "all items with a category are 'C'"}


def test_attributes_are_labels_of_the_items_that_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoders.evaluation.label_sets.FEWEST_ITEMS", 3)
    monkeypatch.setattr("encoders.evaluation.label_sets.MOST_VALUES", 2)
    cells: list[Any] = [
        [("colour", "red"), ("size", "4"), ("brand", "X")],
        None,
        [("colour", " blue "), ("colour", "red"), ("brand", "X")],
        [],
        [("colour", "red"), ("brand", "X"), ("size", None)],
        [("colour", "green"), ("", "x"), ("size", " ")],
        [("colour", "blue"), ("size", "5")],
    ]
    ids = pa.array([f"i{n}" for n in range(len(cells))])
    table = pa.table({"item_id": ids, "title": ids, "attributes": pa.array(cells, ATTRIBUTES_TYPE)})
    pq.write_table(table, tmp_path / "items.parquet", row_group_size=2)
    sets, left_out = attribute_label_sets(open_table(tmp_path / "items.parquet", ITEMS))
    assert [one.name for one in sets] == ["colour"]
    assert of_item(sets[0]) == {0: "colour: red", 2: "colour: blue", 4: "colour: red", 6: "colour: blue"}
    assert sets[0].unlisted == 1
    assert left_out == {"size": "fewer than 3 items have them", "brand": "all items have the same value"}


def test_of_many_attributes_the_commonest_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoders.evaluation.label_sets.MOST_NAMES", 2)
    rows = [
        {"attributes": {name: f"v{n % 2}" for k, name in enumerate("abcdefg") if n < 20 + k}}
        for n in range(30)
    ]
    sets, left_out = attribute_label_sets(catalogue(tmp_path, rows))
    assert [one.name for one in sets] == ["g", "f"]
    assert left_out == {"e, d, c and 2 others": "2 others are commoner"}


def test_an_item_is_what_the_nearest_label_says(tmp_path: Path, worker: WorkingEncoder) -> None:
    items = catalogue(tmp_path, shop_rows(300))
    sets = category_label_sets(items)[0] + attribute_label_sets(items)[0]
    assert [one.name for one in sets] == ["level1", "level2", "colour"]
    predicted = predict(items, worker, sets)
    products = [product for batch in iter_items(items) for product in batch]
    hidden = [
        Product(p.key, p.image, tuple(t for t in p.texts if t[0] in (Aspect.TITLE, Aspect.DESCRIPTION)))
        for p in products
    ]
    vectors_NE, _ = encode(worker.encoder, worker.preparer.table([hidden]), device=CPU)
    for one, predicted_J in zip(sets, predicted, strict=True):
        words = [Product("", None, ((one.aspect, label),)) for label in one.labels]
        labels_KE, _ = encode(worker.encoder, worker.preparer.table([words]), device=CPU)
        score_JK = vectors_NE[one.item_J] @ labels_KE.T
        nearest = score_JK[np.arange(len(predicted_J)), predicted_J]
        assert len(predicted_J) == 300
        # The products may stand in other batches here: of two labels as near, either will do.
        assert (nearest > score_JK.max(1) - 1e-2).all()
        assert len(set(predicted_J.tolist())) > 1


def test_an_items_own_category_and_attributes_do_not_enter(tmp_path: Path, worker: WorkingEncoder) -> None:
    one, other = catalogue(tmp_path / "a", shop_rows()), catalogue(tmp_path / "b", shop_rows(shift=1))
    sets = [category_label_sets(items)[0] + attribute_label_sets(items)[0] for items in (one, other)]
    assert (sets[0][0].class_J != sets[1][0].class_J).any()
    said = [
        [
            np.array(labels.labels)[found].tolist()
            for labels, found in zip(of, predict(items, worker, of), strict=True)
        ]
        for items, of in zip((one, other), sets, strict=True)
    ]
    assert said[0] == said[1]
    # Words taken away only after the text tower has read them leave their traces in those beside them.
    late = [
        encode(worker.encoder, worker.preparer.table(iter_items(items)), device=CPU, view=ITEM_VIEW)[0]
        for items in (one, other)
    ]
    assert np.abs(late[0] - late[1]).max() > 1e-3


def test_items_that_show_nothing_are_not_judged(tmp_path: Path, worker: WorkingEncoder) -> None:
    rows = [*shop_rows(8), {"title": None, "category": "Home > Lamps"}]
    sets, _ = category_label_sets(catalogue(tmp_path, rows))
    predicted = predict(catalogue(tmp_path, rows), worker, sets)
    assert [int((one < 0).sum()) for one in predicted] == [1, 1]
    found = scores(sets[0], predicted[0])
    assert found is not None
    assert (found["items"], found["items_without_content"]) == (8, 1)


def test_metrics_of_labels_are_those_made_by_hand() -> None:
    labels = LabelSet(
        "level1", ["a", "b", "c", "d"], Aspect.CATEGORY, np.arange(7), np.array([0, 0, 0, 0, 1, 1, 2])
    )
    found = scores(labels, np.array([0, 0, 1, 3, 1, 0, -1]))
    assert found is not None
    # a: 2 of 3 said, 2 of 4 found; b: 1 of 2 said, 1 of 2 found; the item of c shows nothing.
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["precision"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["recall"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    f1 = (2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2), 1 / 2)
    assert found["f1"] == pytest.approx(sum(f1) / 2)
    assert found["f1_weighted"] == pytest.approx((4 * f1[0] + 2 * f1[1]) / 6)
    assert found["precision_weighted"] == pytest.approx((4 * 2 / 3 + 2 * 1 / 2) / 6)
    assert found["recall_weighted"] == pytest.approx(found["accuracy"])
    assert found["majority"] == pytest.approx(4 / 6)
    assert (found["classes"], found["items"]) == (4, 6)


@pytest.fixture(scope="module")
def options(worker: WorkingEncoder, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("evaluation")
    worker.encoder.save_pretrained(folder / "encoder")
    searches = write_table(folder / "searches.parquet", [{"query_text": "lamp", "item_id": "i0"}])
    return {
        "encoder": str(folder / "encoder"),
        "searches": str(searches),
        "cache": str(cache),
        "device": "cpu",
    }


def test_an_evaluation_gives_both_and_says_what_it_left_out(options: dict[str, Any], tmp_path: Path) -> None:
    items = str(catalogue(tmp_path, shop_rows()).path)
    found = evaluate(EvaluateConfig(items=items, out=str(tmp_path / "run"), **options))
    assert set(found["classification"]) == {"level1", "level2"}
    assert set(found["attributes"]) == {"colour"}
    assert found["left_out"]["classification.level3"] == "all items with a category are 'Long'"
    assert found["attributes"]["colour"]["items"] == 24
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Categories, zero-shot" in report
    assert "category, level 3" in report


def test_tasks_choose_what_is_measured(options: dict[str, Any], tmp_path: Path) -> None:
    items = str(catalogue(tmp_path, shop_rows()).path)
    asked = options | {"items": items, "out": str(tmp_path / "run"), "tasks": ("attributes",)}
    found = evaluate(EvaluateConfig(**asked))
    assert found["retrieval"] == {}
    assert "classification" not in found
    assert set(found["attributes"]) == {"colour"}


@pytest.mark.parametrize(
    ("rows", "task", "message"),
    [
        ([{}] * 24, "classification", "`category`"),
        ([{}] * 24, "attributes", "`attributes`"),
        ([{"category": "A"}] * 24, "classification", "level1: all items with a category are 'A'"),
        ([{"category": None}] * 24, "classification", "no item has any"),
        ([{"attributes": {"size": "4"}}] * 24, "attributes", "size: all items have the same value"),
        (shop_rows(19), "attributes", "colour: fewer than 20 items have them"),
        ([{"attributes": {}}] * 24, "attributes", "no item has any"),
    ],
)
def test_labels_that_tell_nothing_apart_are_left_out_and_refused_if_asked_for(
    rows: list[dict[str, Any]], task: str, message: str, options: dict[str, Any], tmp_path: Path
) -> None:
    config = options | {"items": str(catalogue(tmp_path, rows).path), "out": str(tmp_path / "run")}
    found = evaluate(EvaluateConfig(**config))
    assert task not in found
    assert message in found["left_out"][task]
    with pytest.raises(UserError, match=f"--tasks {task}: "):
        evaluate(EvaluateConfig(**(config | {"tasks": (task,)})))
