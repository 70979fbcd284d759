"""The pictures of an evaluation: the queries and results that the vectors give, and small, safe pictures."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_helpers import Shop, picture, write_table
from PIL import Image

from encoders.evaluate import EvaluateConfig, evaluate
from encoders.evaluation.catalogue import Catalogue
from encoders.evaluation.examples import FILE, write_examples
from encoders.evaluation.ranked import CATALOGUE, SEARCHES, Ranked
from encoders.evaluation.report_pictures import add_neighbours, add_queries
from encoders.evaluation.tasks import RETRIEVAL, RetrievalTask
from encoders.loading import COMPACT
from encoders.queries import distinct_queries
from moonrec.nearest import ranks_of_positives
from moonrec.report import Report
from moonrec.tables import ITEMS, Table, open_table
from moonrec.tables import SEARCHES as SEARCHES_TABLE

pytest_plugins = ["encoder_fixtures"]

TASKS = {task.name: task for task in RETRIEVAL}
ITEM_COUNT, QUERY_COUNT, WIDTH = 40, 30, 8


def item_rows(**changes: dict[int, Any]) -> list[dict[str, Any]]:
    rows = [
        {
            "item_id": f"i{row}",
            "title": f"title {row}",
            "category": f"{('shoes', 'hats', 'bags')[row % 3]} > kind {row}",
            "image": picture(row, 150),
        }
        for row in range(ITEM_COUNT)
    ]
    for name, values in changes.items():
        for row, value in values.items():
            rows[row][name] = value
    return rows


def search_rows() -> list[dict[str, Any]]:
    """Every query took one item, the last two also another one."""
    queries = [*range(QUERY_COUNT), QUERY_COUNT - 2, QUERY_COUNT - 1]
    return [
        {
            "query_text": f"query {query}",
            "query_image": picture(1_000 + query, 150),
            "item_id": f"i{(query + (5 if row >= QUERY_COUNT else 0)) % ITEM_COUNT}",
        }
        for row, query in enumerate(queries)
    ]


def tables(
    folder: Path, items: list[dict[str, Any]] | None = None, searches: list[dict[str, Any]] | None = None
) -> tuple[Table, Table]:
    folder.mkdir(exist_ok=True)
    return (
        open_table(write_table(folder / "items.parquet", items or item_rows()), ITEMS),
        open_table(write_table(folder / "searches.parquet", searches or search_rows()), SEARCHES_TABLE),
    )


def ranked(
    items: Table, searches: Table, task: str = "text_to_item", seed: int = 0, by: str = "query_text"
) -> Ranked:
    """A task whose vectors are noise of one seed, asked by the distinct values of a column."""
    rng = np.random.default_rng(seed)
    ids = items.read(["item_id"]).column("item_id")
    keys = [text.encode() for text in searches.read([by]).column(by).to_pylist()]
    queries = distinct_queries(searches, ids, keys)
    found = rng.normal(size=(len(ids) + len(queries.first_row_Q), WIDTH))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    vectors_NE, vectors_QE = found[: len(ids)].astype(np.float16), found[len(ids) :].astype(np.float32)
    catalogue = Catalogue(ids, lambda: iter([vectors_NE[:7], vectors_NE[7:]]))
    return with_ranks(TASKS[task], SEARCHES, queries, vectors_QE, catalogue)


def with_ranks(
    task: RetrievalTask, queries_from: str, queries: Any, vectors_QE: np.ndarray, catalogue: Catalogue
) -> Ranked:
    pairs = (queries.query_P, queries.item_P)
    ranks_P = ranks_of_positives(vectors_QE, catalogue.vectors, pairs, queries.own_item_Q)
    return Ranked(task, queries_from, queries, vectors_QE, catalogue, ranks_P, {})


def matrix(catalogue: Catalogue) -> np.ndarray:
    assert callable(catalogue.vectors)
    return np.concatenate(list(catalogue.vectors())).astype(np.float32)


def labels(tiles: list[dict[str, Any]]) -> list[str]:
    return [tile["label"] for tile in tiles]


def of_kind(examples: dict[str, Any], kind: str, task: str = "text_to_item") -> list[dict[str, Any]]:
    return [entry for entry in examples["tasks"][task] if entry["kind"] == kind]


def test_what_is_shown_is_what_brute_force_finds(tmp_path: Path) -> None:
    items, searches = tables(tmp_path / "data")
    one = ranked(items, searches)
    examples = write_examples(tmp_path, [one], searches, items)
    scores_QN = one.vectors_QE @ matrix(one.catalogue).T
    positives = {query: {query} for query in range(QUERY_COUNT)}
    for query in (QUERY_COUNT - 2, QUERY_COUNT - 1):
        positives[query].add((query + 5) % ITEM_COUNT)
    first = {}
    for query, rows in positives.items():
        order = np.argsort(-scores_QN[query], kind="stable").tolist()
        first[query] = 1 + min(order.index(row) for row in rows)
    for entry in examples["tasks"]["text_to_item"]:
        query = int(entry["query"]["label"].removeprefix("query "))
        order = np.argsort(-scores_QN[query], kind="stable")[:5].tolist()
        assert labels(entry["results"]) == [f"title {row}" for row in order]
        assert [tile["hit"] for tile in entry["results"]] == [row in positives[query] for row in order]
        assert [tile["note"] for tile in entry["results"]] == [
            f"{scores_QN[query, row]:.2f}" for row in order
        ]
        assert (entry["rank"], entry["of"]) == (first[query], ITEM_COUNT)
    ordered = sorted(first.values())
    assert [entry["rank"] for entry in of_kind(examples, "best")] == ordered[:3]
    assert [entry["rank"] for entry in of_kind(examples, "worst")] == ordered[:-4:-1]
    between = ordered[3:-3]
    middle = (len(between) - 3) // 2
    assert [entry["rank"] for entry in of_kind(examples, "median")] == between[middle : middle + 3]


def test_the_fixed_queries_are_those_of_every_encoder_and_of_any_order_of_the_rows(tmp_path: Path) -> None:
    items, searches = tables(tmp_path / "data")
    again, turned = tables(tmp_path / "turned", searches=search_rows()[::-1])
    found = [
        write_examples(tmp_path, [ranked(catalogue, asked, seed=seed)], asked, catalogue)
        for catalogue, asked, seed in ((items, searches, 0), (items, searches, 1), (again, turned, 2))
    ]
    fixed = [[entry["query"] for entry in of_kind(one, "fixed")] for one in found]
    assert len(fixed[0]) == 4
    assert fixed[0] == fixed[1] == fixed[2]
    assert of_kind(found[0], "best") != of_kind(found[1], "best")


def test_of_many_photos_of_one_item_and_many_of_another_both_are_shown(tmp_path: Path) -> None:
    photos = [{"query_image": picture(100 + n), "item_id": ("i1", "i2")[n % 2]} for n in range(40)]
    items, searches = tables(tmp_path / "data", searches=photos)
    rng = np.random.default_rng(0)
    ids = items.read(["item_id"]).column("item_id")
    queries = distinct_queries(searches, ids, [str(row).encode() for row in range(40)])
    same = np.ones((len(ids), WIDTH), np.float16)
    catalogue = Catalogue(ids, lambda: iter([same]))
    vectors_QE = rng.normal(size=(40, WIDTH)).astype(np.float32)
    one = with_ranks(TASKS["image_to_item"], SEARCHES, queries, vectors_QE, catalogue)
    examples = write_examples(tmp_path, [one], searches, items)
    ranks = [entry["rank"] for entry in of_kind(examples, "fixed", "image_to_item")]
    assert set(ranks) == {2, 3}


def test_a_query_whose_positive_is_far_down_shows_what_was_taken(tmp_path: Path) -> None:
    items, searches = tables(tmp_path / "data")
    examples = write_examples(tmp_path, [ranked(items, searches)], searches, items)
    for entry in examples["tasks"]["text_to_item"]:
        assert ("taken" in entry) == (entry["rank"] > 5)
        if "taken" in entry:
            assert entry["taken"]["note"] == f"at rank {entry['rank']}"
            assert entry["taken"]["label"] not in labels(entry["results"])
    first = of_kind(examples, "worst")[0]
    assert first["rank"] > 5
    assert first["taken"]["image"] is not None


@pytest.mark.parametrize(
    ("task", "shows_photo", "label"),
    [("image_to_item", True, "photo"), ("text_to_item", False, "query"), ("item_to_item", True, "query")],
)
def test_a_query_shows_no_more_than_the_task_does(
    tmp_path: Path, task: str, shows_photo: bool, label: str
) -> None:
    items, searches = tables(tmp_path / "data")
    examples = write_examples(tmp_path, [ranked(items, searches, task)], searches, items)
    for entry in examples["tasks"][task]:
        assert (entry["query"]["image"] is not None) == shows_photo
        assert entry["query"]["label"].startswith(label)


def test_pictures_are_small_and_broken_or_missing_ones_are_none(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    Image.new("1", (7_100, 7_100)).save(bomb, "PNG")
    bad = {
        0: b"no picture", 1: bomb.getvalue(), 2: picture(2)[:60], 3: None, 4: "gone.png",
    }  # fmt: skip
    items, searches = tables(tmp_path / "data", items=item_rows(image=bad))
    examples = write_examples(tmp_path, [ranked(items, searches, seed=s) for s in range(6)], searches, items)
    entries = [*examples["tasks"]["text_to_item"], *examples["neighbours"]]
    tiles = [tile for entry in entries for tile in entry["results"]]
    broken = {f"title {row}" for row in bad}
    assert broken & set(labels(tiles))
    for tile in tiles:
        assert (tile["image"] is None) == (tile["label"] in broken)
        if tile["image"] is not None:
            image = Image.open(io.BytesIO(base64.b64decode(tile["image"])))
            assert image.format == "JPEG"
            assert max(image.size) == 96


def test_with_an_embedding_set_alone_a_query_is_the_photo_of_its_own_item_which_is_not_found(
    tmp_path: Path,
) -> None:
    asked = [{"query_text": None, "query_item_id": f"i{row}", "item_id": f"i{row + 1}"} for row in range(20)]
    items, searches = tables(tmp_path / "data", searches=asked)
    one = ranked(items, searches, "image_to_item", by="query_item_id")
    examples = write_examples(tmp_path, [one], searches, items)
    photos = {
        tile["label"]: tile["image"]
        for entry in (*examples["tasks"]["image_to_item"], *examples["neighbours"])
        for tile in (*entry["results"], *([entry["taken"]] if "taken" in entry else []))
    }
    seen = 0
    for entry in examples["tasks"]["image_to_item"]:
        own = [label for label, image in photos.items() if image == entry["query"]["image"]]
        assert not set(own) & set(labels(entry["results"]))
        seen += len(own)
    assert seen > 0
    without = write_examples(tmp_path, [one], searches, None)
    assert {tile["image"] for entry in without["neighbours"] for tile in entry["results"]} == {None}
    assert all(
        label in {f"i{row}" for row in range(ITEM_COUNT)}
        for entry in without["tasks"]["image_to_item"]
        for label in labels(entry["results"])
    )


def test_queries_of_the_catalogue_are_its_own_pictures_and_words(tmp_path: Path) -> None:
    items, searches = tables(tmp_path / "data")
    from_searches = ranked(items, searches)
    every = np.arange(ITEM_COUNT)
    queries = type(from_searches.queries)(
        every, np.full(ITEM_COUNT, -1), every, every, np.ones(ITEM_COUNT, int)
    )
    vectors = matrix(from_searches.catalogue)
    one = with_ranks(TASKS["text_to_image"], CATALOGUE, queries, vectors, from_searches.catalogue)
    examples = write_examples(tmp_path, [one], searches, items)
    for entry in examples["tasks"]["text_to_image"]:
        assert entry["rank"] == 1
        assert entry["results"][0]["label"] == entry["query"]["label"]
        assert entry["query"]["image"] is None
    assert examples["neighbours"] == []


def test_neighbours_are_the_nearest_others_of_items_of_every_category(tmp_path: Path) -> None:
    items, searches = tables(tmp_path / "data")
    one = ranked(items, searches)
    examples = write_examples(tmp_path, [one], searches, items)
    vectors = matrix(one.catalogue)
    scores_NN = vectors @ vectors.T
    np.fill_diagonal(scores_NN, -2)
    shown = [int(entry["query"]["label"].removeprefix("title ")) for entry in examples["neighbours"]]
    assert len(set(shown)) == 6
    assert np.bincount([row % 3 for row in shown]).tolist() == [2, 2, 2]
    for row, entry in zip(shown, examples["neighbours"], strict=True):
        nearest = np.argsort(-scores_NN[row], kind="stable")[:5]
        assert labels(entry["results"]) == [f"title {other}" for other in nearest]
        assert {tile["hit"] for tile in entry["results"]} == {None}


def test_the_same_run_writes_the_same_bytes(tmp_path: Path) -> None:
    items, searches = tables(tmp_path / "data")
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found = write_examples(tmp_path / name, [ranked(items, searches)], searches, items)
        contents.append((tmp_path / name / FILE).read_bytes())
        assert json.loads(contents[-1]) == found
    assert contents[0] == contents[1]


def test_fewer_queries_and_items_than_are_shown_are_shown_once_each(tmp_path: Path) -> None:
    items, searches = tables(tmp_path / "data", item_rows()[:3], search_rows()[:2])
    examples = write_examples(tmp_path, [ranked(items, searches)], searches, items)
    kinds = [entry["kind"] for entry in examples["tasks"]["text_to_item"]]
    assert kinds == ["best", "best", "fixed", "fixed"]
    assert [len(entry["results"]) for entry in examples["neighbours"]] == [2, 2, 2]


def test_the_page_shows_every_picture_and_escapes_hostile_titles(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x07" + "x" * 5_000
    titles = dict.fromkeys(range(ITEM_COUNT), hostile)
    items, searches = tables(tmp_path / "data", item_rows(title=titles))
    tasks = [ranked(items, searches, name) for name in ("item_to_item", "text_to_item")]
    report = Report("pictures")
    examples = write_examples(tmp_path, tasks, searches, items)
    add_queries(report, examples)
    add_neighbours(report, examples)
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    entries = [entry for task in examples["tasks"].values() for entry in task] + examples["neighbours"]
    tiles = [tile for entry in entries for tile in (entry["query"], *entry["results"])]
    worst = [entry["taken"] for task in examples["tasks"] for entry in of_kind(examples, "worst", task)]
    shown = [tile for tile in (*tiles, *worst) if tile["image"] is not None]
    assert page.count("<img") == len(shown)
    assert "<script" not in page
    assert len(page) < 1_000_000


def test_an_evaluation_leaves_its_examples_and_shows_them(shop: Shop, trained: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(
        searches=shop.test_searches, items=shop.items, encoder=COMPACT, out=str(tmp_path / "run"),
        tasks=("image_to_item", "image_to_text"), cache=shop.cache, device="cpu",
    )  # fmt: skip
    metrics = evaluate(config)
    examples = json.loads((tmp_path / "run" / FILE).read_text())
    assert set(examples["tasks"]) == {"image_to_item", "image_to_text"}
    entries = examples["tasks"]["image_to_item"]
    assert len(entries) == 13
    assert {entry["of"] for entry in entries} == {metrics["retrieval"]["image_to_item"]["catalogue"]}
    assert (tmp_path / "run" / "report.html").read_text().count("<img") > 60
