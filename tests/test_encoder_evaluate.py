"""Image-search recall against brute force over the vectors, and what an evaluation refuses."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from encoder_helpers import CPU, Shop, picture, write_table

from encoders.encoding import encode
from encoders.evaluate import EvaluateConfig, evaluate
from encoders.evaluation.tasks import TASKS
from encoders.export import ExportConfig, export
from encoders.features import Featurizer
from encoders.loading import COMPACT, load_encoder
from encoders.products import IMAGE_ONLY, Aspect, Product, iter_queries
from encoders.queries import distinct_queries, image_digest
from encoders.raw_products import shown
from encoders.towers import Towers, pretrained_fingerprint
from moonrec.embedding_set import EmbeddingSet, EmbeddingSetWriter
from moonrec.errors import UserError
from moonrec.tables import SEARCHES, Table, open_table

pytest_plugins = ["encoder_fixtures"]

TASK = "image_to_item"


def evaluated(shop: Shop, out: Path, **options: Any) -> dict[str, Any]:
    defaults = {"searches": shop.test_searches, "cache": shop.cache, "device": "cpu"}
    metrics = evaluate(EvaluateConfig(out=str(out), **(defaults | options)))
    assert json.loads((out / "metrics.json").read_text()) == metrics
    return metrics


@pytest.fixture(scope="module")
def embeddings(shop: Shop, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "set"
    export(ExportConfig(encoder=str(trained), items=shop.items, out=str(out), cache=shop.cache, device="cpu"))
    return out


def write_searches(path: Path, rows: list[dict[str, Any]]) -> Table:
    return open_table(write_table(path / "searches.parquet", rows), SEARCHES)


def write_vectors(path: Path, vectors: dict[str, list[float]]) -> Path:
    with EmbeddingSetWriter(path, 2, {}) as writer:
        found = np.array(list(vectors.values()), float)
        writer.write(list(vectors), found / np.linalg.norm(found, axis=1, keepdims=True))
    return path


def brute_force(shop: Shop, trained: Path, embeddings: Path, towers: Towers) -> dict[str, float]:
    """Every query photo, one by one, against the exported vectors; each query of the shop has one answer."""
    searches = open_table(shop.test_searches, SEARCHES)
    encoder, _ = load_encoder(str(trained))
    run = Featurizer(towers=towers, fingerprint=pretrained_fingerprint(), cache=None, device=CPU)
    features = run.table([[shown(p, IMAGE_ONLY) for p in batch] for batch in iter_queries(searches)])
    vectors_QE, empty = encode(encoder, features, device=CPU)
    catalogue = EmbeddingSet.open(embeddings)
    ids = catalogue.ids.to_pylist()
    taken = searches.read(["item_id"]).column("item_id").to_pylist()
    ranks = []
    for vector_E, nothing, item in zip(vectors_QE, empty, taken, strict=True):
        if not nothing:
            scores = catalogue.matrix().astype(np.float32) @ vector_E
            ranks.append(1 + int((scores > scores[ids.index(item)]).sum()))
    of = np.array(ranks)
    values = {f"hit@{k}": float((of <= k).mean()) for k in (1, 5, 10, 50)}
    return values | {"mrr": float((1 / of).mean()), "queries": len(of)}


def test_ranks_are_those_of_brute_force_with_items_and_with_embeddings(
    shop: Shop, trained: Path, embeddings: Path, towers: Towers, tmp_path: Path
) -> None:
    expected = brute_force(shop, trained, embeddings, towers)
    tasks = ("image_to_item", "text_to_item", "item_to_item")
    with_items = evaluated(shop, tmp_path / "items", encoder=str(trained), items=shop.items, tasks=tasks)
    with_set = evaluated(shop, tmp_path / "set", encoder=str(trained), embeddings=str(embeddings))
    assert with_items["retrieval"] == with_set["retrieval"]
    assert tuple(with_set["retrieval"]) == tasks
    assert set(with_set["left_out"]) == set(TASKS) - set(tasks)
    assert with_items["queries"] == expected.pop("queries")
    assert with_items["catalogue"] == 60
    assert with_items["positives_in_catalogue"] == with_items["positives"]
    found = with_items["retrieval"][TASK]
    # Photos may be multiplied in bf16 in batches of another size: one rank may differ by a hair.
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.03), name
    assert {path.name for path in (tmp_path / "set").iterdir()} == {
        "config.yaml", "metrics.json", "history.jsonl", "report.html", "provenance.json",
        "queries.parquet", "labels.parquet", "agreement.parquet", "examples.json"
    }  # fmt: skip


@pytest.mark.parametrize("dim", [None, 32])
def test_the_untrained_encoder_is_evaluated_against_its_own_export(
    dim: int | None, shop: Shop, tmp_path: Path
) -> None:
    out = str(tmp_path / "set")
    export(ExportConfig(encoder=COMPACT, items=shop.items, out=out, dim=dim, cache=shop.cache, device="cpu"))
    options = {"encoder": COMPACT, "items": shop.items, "embeddings": out, "tasks": (TASK,)}
    metrics = evaluated(shop, tmp_path / "run", **options)
    assert metrics["catalogue"] == 60
    assert metrics["retrieval"][TASK]["hit@10"] > 10 / 60


@pytest.mark.parametrize("option", ["encoder", "embeddings", "items", "searches"])
@pytest.mark.parametrize("inside", [False, True])
def test_an_output_that_would_touch_an_input_is_refused(
    option: str, inside: bool, shop: Shop, trained: Path, embeddings: Path, tmp_path: Path
) -> None:
    given = {
        "encoder": str(trained),
        "embeddings": str(embeddings),
        "items": shop.items,
        "searches": shop.test_searches,
    }
    out = Path(given[option]) / "x" if inside else Path(given[option])
    with pytest.raises(UserError, match=f"lies in the input --{option}"):
        evaluated(shop, out, **given)
    assert (trained / "model" / "config.json").exists()
    shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(UserError, match="was written by `moonrec posttrain`"):
        evaluated(shop, tmp_path / "run", **given)
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_an_embedding_set_of_another_encoder_is_refused(shop: Shop, embeddings: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not made by this encoder"):
        evaluated(shop, tmp_path / "run", encoder=COMPACT, items=shop.items, embeddings=str(embeddings))
    assert not (tmp_path / "run").exists()


def test_embeddings_alone_rank_by_the_vector_of_the_query_item_and_leave_it_out(
    shop: Shop, tmp_path: Path
) -> None:
    vectors: dict[str, list[float]] = {"a": [1, 0], "b": [1, 0.1], "c": [1, 0.5], "d": [0, 1]}
    embeddings = write_vectors(tmp_path / "set", vectors)
    rows: list[dict[str, Any]] = [
        {"query_item_id": "a", "query_text": "", "item_id": "c"},  # behind b alone, since a is left out
        {"query_item_id": "a", "query_text": "", "item_id": "gone"},  # a positive that nobody can find
        {"query_item_id": "a", "query_text": "", "item_id": "a"},  # its own picture: no positive
        {"query_item_id": "d", "query_text": "", "item_id": "c"},
        {"query_item_id": None, "query_text": "", "item_id": "b"},
        {"query_item_id": "gone", "query_text": "", "item_id": "b"},
    ]
    searches = write_searches(tmp_path, rows)
    metrics = evaluated(shop, tmp_path / "run", searches=str(searches.path), embeddings=str(embeddings))
    assert metrics["queries"] == 2
    assert (metrics["positives"], metrics["positives_in_catalogue"]) == (3, 2)
    values = metrics["retrieval"][TASK]
    assert values["mrr"] == pytest.approx((1 / 2 + 1) / 2)
    assert (values["hit@1"], values["hit@5"]) == (0.5, 1.0)
    assert values["recall@5"] == pytest.approx((1 / 2 + 1) / 2)
    assert metrics["unknown_items"] == {"count": 1, "rows": 6, "examples": ["gone"]}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "count as missed" in report
    assert "1 of 6 searches name items that the catalogue lacks, such as 'gone'" in html.unescape(report)


@pytest.mark.parametrize("catalogue", ["items", "embeddings"])
def test_searches_of_another_catalogue_are_refused(
    catalogue: str, shop: Shop, trained: Path, embeddings: Path, tmp_path: Path
) -> None:
    taken = ["x1", "x2", shop.item_ids()[0]]
    searches = write_searches(tmp_path, [{"query_image": picture(1), "item_id": item} for item in taken])
    path = {"items": shop.items, "embeddings": str(embeddings)}[catalogue]
    arguments = {"searches": str(searches.path), "encoder": str(trained), catalogue: path}
    with pytest.raises(UserError, match=r"2 of 3 searches name items .* such as 'x1', 'x2'"):
        evaluated(shop, tmp_path / "run", **arguments)


def test_items_of_the_catalogue_without_a_vector_are_missed_rather_than_unknown(
    shop: Shop, tmp_path: Path
) -> None:
    embeddings = write_vectors(tmp_path / "set", {"a": [1, 0], "b": [1, 0.1]})
    items = write_table(tmp_path / "items.parquet", [{"item_id": name, "title": name} for name in "abcd"])
    taken = ["b", "c", "d"]
    rows = [{"query_item_id": "a", "query_text": "", "item_id": item} for item in taken]
    arguments = {"searches": str(write_searches(tmp_path, rows).path), "embeddings": str(embeddings)}
    with pytest.raises(UserError, match="--items"):
        evaluated(shop, tmp_path / "run", **arguments)
    metrics = evaluated(shop, tmp_path / "run", items=str(items), **arguments)
    assert metrics["unknown_items"]["count"] == 0
    assert (metrics["positives"], metrics["positives_in_catalogue"]) == (3, 1)


def test_equal_photos_are_one_query_with_all_that_was_taken(
    shop: Shop, trained: Path, embeddings: Path, tmp_path: Path
) -> None:
    ids = shop.item_ids()
    rows: list[dict[str, Any]] = [
        {"query_image": picture(1), "query_text": "these words are not shown", "item_id": ids[0]},
        {"query_image": picture(2), "item_id": ids[1]},
        {"query_image": picture(1), "item_id": ids[2]},
        {"query_image": picture(1), "item_id": ids[0]},
        {"query_image": None, "query_text": "no photo", "item_id": ids[3]},
        {"query_image": b"broken", "item_id": ids[4]},
        {"query_image": picture(3), "item_id": "gone"},
    ]
    searches = str(write_searches(tmp_path, rows).path)
    arguments = {"searches": searches, "encoder": str(trained), "embeddings": str(embeddings)}
    metrics = evaluated(shop, tmp_path / "run", **arguments)
    assert metrics["queries"] == 3
    assert metrics["positives"] == 4
    assert metrics["positives_in_catalogue"] == 3
    assert metrics["retrieval"][TASK]["hit@50"] <= 2 / 3
    assert metrics["broken_images"]["count"] == 1
    assert metrics["broken_images"]["examples"][0]["id"] == "row 5"


def test_a_broken_picture_of_the_catalogue_counts_once(shop: Shop, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"item_id": "a", "title": "red", "image": picture(1)},
        {"item_id": "b", "title": "blue", "image": b"x"},
    ]
    items = str(write_table(tmp_path / "items.parquet", rows))
    searches = str(write_searches(tmp_path, [{"query_image": picture(1), "item_id": "a"}]).path)
    metrics = evaluated(shop, tmp_path / "run", encoder=COMPACT, items=items, searches=searches)
    assert metrics["broken_images"]["count"] == 1
    assert metrics["retrieval"][TASK]["hit@1"] == 1.0


def test_queries_point_to_their_first_row_their_own_item_and_their_positives(tmp_path: Path) -> None:
    ids = pa.array(["a", "b", "c"])
    pairs = [
        ("x", "a", "b"),
        ("y", "b", "a"),
        ("x", "a", "c"),
        (None, "a", "a"),
        ("x", "a", "b"),
        ("z", "c", "c"),
    ]
    rows = [{"query_text": "", "query_item_id": own, "item_id": item} for _, own, item in pairs]
    keys = [None if key is None else key.encode() for key, _, _ in pairs]
    found = distinct_queries(write_searches(tmp_path, rows), ids, keys)
    assert found.first_row_Q.tolist() == [0, 1]  # z took its own item alone, and is no query
    assert found.own_item_Q.tolist() == [0, 1]
    assert sorted(zip(found.query_P.tolist(), found.item_P.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0)]
    assert found.positives_Q.tolist() == [2, 1]


def test_photos_are_one_query_if_their_bytes_are_equal() -> None:
    one = Product("row 0", picture(1), ((Aspect.TITLE, "words"),))
    boxed = Product("row 9", picture(1), (), region=(0.0, 0.0, 0.5, 0.5))
    assert image_digest(one) == image_digest(Product("row 9", picture(1), ()))
    assert image_digest(one) == image_digest(boxed)
    assert image_digest(one) != image_digest(Product("row 0", picture(2), ()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--encoder RUN, --embeddings EMB, or both"),
        ({"encoder": COMPACT}, "--items TABLE or --embeddings EMB"),
        ({"encoder": COMPACT, "embeddings": True}, "--items"),
        ({"embeddings": True}, "query_item_id"),
        ({"encoder": True, "embeddings": True, "tasks": ("image_to_item",)}, "query_image"),
        ({"encoder": True, "embeddings": True, "tasks": ("item_to_item",)}, "query_image"),
        ({"encoder": True, "embeddings": True, "tasks": ("text_to_image",)}, "--items"),
        ({"encoder": True, "embeddings": True, "tasks": ("classification",)}, "--items"),
        ({"encoder": True, "embeddings": True, "tasks": ("text_to_item", "t2i")}, "'t2i' is no task"),
        ({"encoder": True, "embeddings": True, "tasks": ()}, "expected some of image_to_item, text_to_item"),
        ({"embeddings": True, "tasks": ("text_to_item",)}, "name its --encoder"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    options: dict[str, Any], message: str, shop: Shop, trained: Path, embeddings: Path, tmp_path: Path
) -> None:
    paths = {"encoder": str(trained), "embeddings": str(embeddings)}
    arguments = {name: paths[name] if value is True else value for name, value in options.items()}
    searches = write_searches(tmp_path, [{"query_text": "socks", "item_id": "i000001"}])
    with pytest.raises(UserError, match=message):
        evaluated(shop, tmp_path / "run", searches=str(searches.path), **arguments)
    assert not (tmp_path / "run").exists()
