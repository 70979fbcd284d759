"""Every retrieval task against brute force, one query at a time, on a small shop of planted cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_helpers import CPU, busy_encoder, picture, write_table

from encoders.encoding import encode
from encoders.evaluate import EvaluateConfig, evaluate
from encoders.evaluation import within_catalogue
from encoders.export import ExportConfig, export
from encoders.loading import load_encoder
from encoders.products import EVERYTHING, IMAGE_ONLY, TEXT_ONLY, Product, View, iter_items, iter_queries
from encoders.raw_products import shown
from moonrec.errors import UserError
from moonrec.tables import ITEMS, SEARCHES, open_table

VIEWS = {
    "image_to_item": (IMAGE_ONLY, EVERYTHING),
    "text_to_item": (TEXT_ONLY, EVERYTHING),
    "item_to_item": (EVERYTHING, EVERYTHING),
    "image_to_text": (IMAGE_ONLY, TEXT_ONLY),
    "text_to_image": (TEXT_ONLY, IMAGE_ONLY),
}
WORDS = ("red dress", "blue chair", "oak table", "wool scarf", "steel lamp", "green tea", "clay vase")
ITEM_ROWS: list[dict[str, Any]] = [
    {
        "item_id": f"i{n}",
        "title": f"{WORDS[n % 7]} {n}",
        "category": f"Home > {WORDS[n % 3]}",
        "image": picture(n),
    }
    for n in range(16)
] + [
    {"item_id": "words alone", "title": "linen shirt", "image": None},
    {"item_id": "picture alone", "title": None, "image": picture(40)},
    {"item_id": "nothing", "title": " ", "image": b"broken"},
]
SEARCH_ROWS: list[dict[str, Any]] = [
    {"query_image": picture(50 + n % 5), "query_text": WORDS[n % 4], "item_id": f"i{n}"} for n in range(9)
] + [
    {"query_image": picture(60), "query_text": None, "item_id": "words alone"},
    {"query_image": None, "query_text": "shirt", "item_id": "words alone"},
    {"query_image": None, "query_text": "shirt", "item_id": "picture alone"},
    {"query_image": None, "query_text": "shirt", "item_id": "i3"},
    {"query_image": b"broken", "query_text": "  ", "item_id": "i4"},
    {"query_image": picture(3), "query_text": "what i3 shows", "item_id": "i3", "query_item_id": "i3"},
    {"query_image": picture(3), "query_text": "what i3 shows", "item_id": "i5", "query_item_id": "i3"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, an encoder all of whose weights are random, and a feature cache."""
    folder = tmp_path_factory.mktemp("tasks")
    write_table(folder / "items.parquet", ITEM_ROWS)
    write_table(folder / "searches.parquet", SEARCH_ROWS)
    busy_encoder().save_pretrained(folder / "encoder")
    return folder


def evaluated(folder: Path, out: Path, **options: Any) -> dict[str, Any]:
    defaults = {
        "encoder": str(folder / "encoder"),
        "items": str(folder / "items.parquet"),
        "searches": str(folder / "searches.parquet"),
        "cache": str(folder / "cache"),
        "device": "cpu",
    }
    metrics = evaluate(EvaluateConfig(out=str(out), **(defaults | options)))
    assert json.loads((out / "metrics.json").read_text()) == metrics
    return metrics


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Any]:
    return evaluated(folder, folder / "run")


def vectors(folder: Path, products: list[Product], view: View) -> tuple[np.ndarray, np.ndarray]:
    """Of products from which everything else was taken away before anything was made of them."""
    encoder, _ = load_encoder(str(folder / "encoder"))
    table = encoder.preparer(folder / "cache", CPU).table([[shown(product, view) for product in products]])
    found, empty = encode(encoder, table, device=CPU)
    return found, ~empty & (table.has_image() | (view == TEXT_ONLY)) & (
        table.has_text() | (view == IMAGE_ONLY)
    )


def rank(query_E: np.ndarray, catalogue: dict[str, np.ndarray], item: str, without: str | None) -> int:
    """1 + the items that score higher."""
    scores = {
        name: float(vector_E.astype(np.float16).astype(np.float32) @ query_E)
        for name, vector_E in catalogue.items()
    }
    return 1 + sum(score > scores[item] for name, score in scores.items() if name != without)


def brute_force(folder: Path, task: str) -> dict[str, float]:
    """Metrics of a task from the rank of every positive of every query."""
    query_view, item_view = VIEWS[task]
    items = [
        product for batch in iter_items(open_table(folder / "items.parquet", ITEMS)) for product in batch
    ]
    queries = [p for batch in iter_queries(open_table(folder / "searches.parquet", SEARCHES)) for p in batch]
    of_items, _ = vectors(folder, items, item_view)
    catalogue = {p.key: v for p, v in zip(items, of_items, strict=True) if v.any()}
    of_queries, usable = vectors(folder, queries, query_view)
    positives: dict[Any, set[str]] = {}
    place: dict[Any, tuple[int, str | None]] = {}
    for n, (row, product) in enumerate(zip(SEARCH_ROWS, queries, strict=True)):
        own = row.get("query_item_id") if query_view != TEXT_ONLY else None
        if usable[n] and row["item_id"] != own:
            key = (
                product.image if query_view != TEXT_ONLY else b"",
                product.texts if query_view != IMAGE_ONLY else (),
            )
            positives.setdefault(key, set()).add(row["item_id"])
            place.setdefault(key, (n, own))
    hits: dict[str, list[float]] = {name: [] for name in ("hit@1", "hit@5", "recall@5", "mrr")}
    for key, taken in positives.items():
        n, own = place[key]
        ranks = sorted(rank(of_queries[n], catalogue, item, own) for item in taken if item in catalogue)
        hits["hit@1"].append(bool(ranks) and ranks[0] <= 1)
        hits["hit@5"].append(bool(ranks) and ranks[0] <= 5)
        hits["recall@5"].append(sum(r <= 5 for r in ranks) / min(5, len(taken)))
        hits["mrr"].append(1 / ranks[0] if ranks else 0)
    counts = {
        "queries": len(positives),
        "positives": sum(map(len, positives.values())),
        "catalogue": len(catalogue),
    }
    return {name: float(np.mean(values)) for name, values in hits.items()} | counts


@pytest.mark.parametrize("task", VIEWS)
def test_a_retrieval_task_is_what_brute_force_finds(
    task: str, folder: Path, measured: dict[str, Any]
) -> None:
    found = measured["retrieval"][task]
    expected = brute_force(folder, task)
    assert found["queries_from"] == "searches"
    for name, value in expected.items():
        # The products may stand in other batches here: a pair of equal scores may change places.
        assert found[name] == pytest.approx(value, abs=0.02), name
    assert found["positives_in_catalogue"] <= found["positives"]


def test_the_counts_of_image_search_stand_at_the_top_besides(measured: dict[str, Any]) -> None:
    photos = measured["retrieval"]["image_to_item"]
    for name in ("queries", "catalogue", "positives", "positives_in_catalogue"):
        assert measured[name] == photos[name]
    assert measured["broken_images"]["count"] == 2


def test_what_the_catalogue_cannot_show_is_missed(measured: dict[str, Any], folder: Path) -> None:
    missing = {
        name: task["positives"] - task["positives_in_catalogue"]
        for name, task in measured["retrieval"].items()
    }
    assert missing == {
        "image_to_item": 0, "text_to_item": 0, "item_to_item": 0, "image_to_text": 0, "text_to_image": 1
    }  # fmt: skip
    assert "text to image: 1 of" in (folder / "run" / "report.html").read_text()


def test_words_do_not_leave_out_the_item_whose_picture_stands_beside_them(
    folder: Path, tmp_path: Path
) -> None:
    searches = str(write_table(tmp_path / "searches.parquet", SEARCH_ROWS[-2:]))
    found = evaluated(folder, tmp_path / "run", searches=searches)["retrieval"]
    positives = {name: task["positives"] for name, task in found.items()}
    assert positives == {
        "image_to_item": 1, "text_to_item": 2, "item_to_item": 1, "image_to_text": 1, "text_to_image": 2
    }  # fmt: skip


def test_without_words_in_the_searches_the_catalogue_asks_with_its_own(folder: Path, tmp_path: Path) -> None:
    rows = [{"query_image": picture(50), "item_id": "i1"}]
    items = [
        *ITEM_ROWS,
        ITEM_ROWS[0] | {"item_id": "same words", "image": picture(70)},
        {"item_id": "same picture", "title": "another one", "image": picture(1)},
    ]
    paths = {
        "searches": str(write_table(tmp_path / "searches.parquet", rows)),
        "items": str(write_table(tmp_path / "items.parquet", items)),
    }
    metrics = evaluated(folder, tmp_path / "run", **paths)
    assert set(metrics["left_out"]) >= {"text_to_item", "item_to_item"}
    found = metrics["retrieval"]["text_to_image"]
    assert metrics["retrieval"]["image_to_text"]["queries_from"] == "searches"
    assert found["queries_from"] == "catalogue"
    # 18 items have both; equal words are one query, equal pictures one answer, as is the one without words.
    assert (found["queries"], found["catalogue"], found["positives"]) == (17, 18, 18)
    both = [p for batch in iter_items(open_table(paths["items"], ITEMS)) for p in batch]
    words, has_words = vectors(folder, both, TEXT_ONLY)
    pictures, has_picture = vectors(folder, both, IMAGE_ONLY)
    distinct = {p.image: v for p, v, ok in zip(both, pictures, has_picture, strict=True) if ok}
    best: dict[Any, float] = {}
    for product, word_E, ok in zip(both, words, has_words & has_picture, strict=True):
        if ok:
            own = float(distinct[product.image] @ word_E)
            above = sum(float(v @ word_E) > own for v in distinct.values())
            best[product.texts] = max(best.get(product.texts, 0), 1 / (1 + above))
    assert found["mrr"] == pytest.approx(np.mean(list(best.values())), abs=0.02)


def test_a_large_catalogue_asks_with_some_of_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(within_catalogue, "MOST_QUERIES", 5)
    searches = str(write_table(tmp_path / "searches.parquet", [{"query_text": "red", "item_id": "i1"}]))
    tasks = ("image_to_text",)
    found = evaluated(folder, tmp_path / "run", searches=searches, tasks=tasks)["retrieval"]
    assert list(found) == ["image_to_text"]
    assert (found["image_to_text"]["queries"], found["image_to_text"]["catalogue"]) == (5, 17)


def test_an_embedding_set_gives_all_vectors_its_width(
    folder: Path, tmp_path: Path, measured: dict[str, Any]
) -> None:
    out, encoder, items = (
        str(path) for path in (tmp_path / "set", folder / "encoder", folder / "items.parquet")
    )
    export(
        ExportConfig(encoder=encoder, items=items, out=out, dim=8, cache=str(folder / "cache"), device="cpu")
    )
    found = evaluated(folder, tmp_path / "run", embeddings=out)["retrieval"]
    assert set(found) == set(VIEWS)
    assert found["image_to_text"] != measured["retrieval"]["image_to_text"]
    assert found["image_to_text"]["queries"] == measured["retrieval"]["image_to_text"]["queries"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"query_image": b"broken", "item_id": "i1"}], "no row has a usable query"),
        ([{"query_text": " ", "item_id": "i1"}], "no row has a usable query"),
        ([{"query_image": picture(1), "item_id": "i1", "query_item_id": "i1"}], "its own picture's item"),
    ],
)
def test_searches_that_ask_nothing_are_refused(
    rows: list[dict[str, Any]], message: str, folder: Path, tmp_path: Path
) -> None:
    searches = str(write_table(tmp_path / "searches.parquet", rows))
    with pytest.raises(UserError, match=message):
        evaluated(folder, tmp_path / "run", searches=searches)
    assert not (tmp_path / "run").exists()


def test_a_task_that_was_asked_for_and_finds_nothing_is_a_mistake(folder: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query_image": picture(50), "query_text": None, "item_id": "i1"},
        {"query_image": None, "query_text": "red", "item_id": "i1"},
    ]
    searches = str(write_table(tmp_path / "searches.parquet", rows))
    left_out = evaluated(folder, tmp_path / "run", searches=searches)["left_out"]
    assert "no row has a usable query" in left_out["item_to_item"]
    with pytest.raises(UserError, match=r"--tasks item_to_item: .* no row has a usable query"):
        evaluated(folder, tmp_path / "again", searches=searches, tasks=("image_to_item", "item_to_item"))


def test_a_catalogue_without_pictures_has_no_tasks_across_modalities(folder: Path, tmp_path: Path) -> None:
    items = str(
        write_table(
            tmp_path / "items.parquet", [{"item_id": f"i{n}", "title": WORDS[n % 7]} for n in range(16)]
        )
    )
    rows = [{"query_text": "red", "item_id": "i1"}]
    searches = str(write_table(tmp_path / "searches.parquet", rows))
    metrics = evaluated(folder, tmp_path / "run", items=items, searches=searches)
    assert set(metrics["retrieval"]) == {"text_to_item"}
    assert "queries" not in metrics
    for task, column in (("image_to_text", "`image`"), ("classification", "`category`")):
        assert column in metrics["left_out"][task]
