"""Comparisons: of the same queries among the same items, by tests that see a difference; what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from encoder_helpers import busy_encoder, picture, write_table

from encoders.evaluate import EvaluateConfig, evaluate
from encoders.evaluation.comparisons import compare, label_differences
from encoders.evaluation.label_sets import LabelSet
from encoders.evaluation.results import LabelResults, Results
from encoders.evaluation.summary import Resampling
from encoders.products import Aspect
from moonrec.bootstrap import FLIPS
from moonrec.cli import main
from moonrec.embedding_set import EmbeddingSetWriter
from moonrec.macro_f1 import macro_f1

ITEMS = 200


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items of two domains whose vectors stand ready, whole and with parts of the items missing."""
    folder = tmp_path_factory.mktemp("shop")
    vectors_ND = np.random.default_rng(0).normal(size=(ITEMS, 8))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    ids = [f"i{n:03}" for n in range(ITEMS)]
    for name, left_out in (("whole", 0), ("nearly", 1), ("most", 40)):
        with EmbeddingSetWriter(folder / name, 8, {}) as writer:
            writer.write(ids[left_out:], vectors_ND[left_out:])
    rows = [{"item_id": one, "title": one, "category": "AB"[n % 2]} for n, one in enumerate(ids)]
    write_table(folder / "items.parquet", rows)
    searches = [{"query_item_id": f"i{n:03}", "item_id": f"i{n + 60:03}"} for n in range(40, 100)]
    write_table(folder / "searches.parquet", [{"query_text": "x"} | search for search in searches])
    return folder


def evaluated(shop: Path, out: Path, **options: Any) -> dict[str, Any]:
    paths = {name: str(shop / f"{name}.parquet") for name in ("items", "searches")}
    return evaluate(EvaluateConfig(out=str(out), **(paths | {"device": "cpu", "cache": ""} | options)))


def test_rankings_among_other_items_are_not_compared(shop: Path, tmp_path: Path) -> None:
    baseline = tuple(f"{name}={shop / name}" for name in ("nearly", "most"))
    found = evaluated(shop, tmp_path / "run", embeddings=str(shop / "whole"), baseline=baseline)
    assert {one["baseline"] for one in found["comparisons"]} == {"nearly"}
    reason = found["baselines"]["most"]["uncompared"]["image_to_item"]
    assert reason.startswith("the baseline's vectors lack 40 of the 200 items that are ranked")
    assert reason in (tmp_path / "run" / "report.html").read_text().replace("&#39;", "'")


def test_an_encoder_that_ranks_more_items_is_not_compared(tmp_path: Path) -> None:
    busy_encoder(0, 16).save_pretrained(tmp_path / "encoder")
    ids = [f"i{n:02}" for n in range(20)]
    items = [{"item_id": one, "title": f"thing {one}", "image": picture(n)} for n, one in enumerate(ids)]
    write_table(tmp_path / "items.parquet", items)
    searches = [{"query_image": picture(n), "query_item_id": ids[n], "item_id": ids[n + 1]} for n in range(9)]
    write_table(tmp_path / "searches.parquet", searches)
    with EmbeddingSetWriter(tmp_path / "most", 8, {}) as writer:
        writer.write(ids[:15], np.eye(8)[np.arange(15) % 8])
    baseline = (f"encoder={tmp_path / 'encoder'}",)
    found = evaluated(tmp_path, tmp_path / "run", embeddings=str(tmp_path / "most"), baseline=baseline)
    assert found["comparisons"] == []
    reason = found["baselines"]["encoder"]["uncompared"]["image_to_item"]
    assert "lack 0 of the 15 items that are ranked and have 5 others" in reason


def test_queries_that_only_one_was_asked_are_counted(tmp_path: Path) -> None:
    """An encoder asks each of an item's two photos, vectors alone ask the item once."""
    busy_encoder(0, 16).save_pretrained(tmp_path / "encoder")
    ids = [f"i{n:02}" for n in range(20)]
    items = [{"item_id": one, "title": f"thing {one}", "image": picture(n)} for n, one in enumerate(ids)]
    write_table(tmp_path / "items.parquet", items)
    with EmbeddingSetWriter(tmp_path / "set", 8, {}) as writer:
        writer.write(ids, np.eye(8)[np.arange(20) % 8])
    shown = [(0, 0, 5), (0, 1, 6), (1, 2, 7), (2, 3, 8), (3, 4, 9)]
    searches = [
        {"query_image": picture(100 + photo), "query_item_id": ids[own], "item_id": ids[taken]}
        for own, photo, taken in shown
    ]
    options: dict[str, Any] = {"encoder": str(tmp_path / "encoder"), "tasks": ("image_to_item",)}
    options["baseline"] = (f"set={tmp_path / 'set'}",)
    write_table(tmp_path / "searches.parquet", searches)
    found = evaluated(tmp_path, tmp_path / "run", **options)
    assert found["baselines"]["set"]["paired"] == {"image_to_item": {"both": 3, "main": 5, "baseline": 4}}
    assert {one["count"] for one in found["comparisons"]} == {3}
    assert "image to item: 3 of 5 and 4" in (tmp_path / "run" / "report.html").read_text()

    write_table(tmp_path / "searches.parquet", searches[:2])
    found = evaluated(tmp_path, tmp_path / "none", **options)
    assert found["comparisons"] == []
    assert found["baselines"]["set"]["uncompared"]["image_to_item"] == (
        "0 of its 2 queries and of the baseline's 1 are the same; at least 2 are needed"
    )


def test_one_that_is_always_right_differs_from_one_that_is_always_wrong() -> None:
    """The bootstrap's spread of the difference is 0 then, which is no reason to see none."""
    right_J = np.arange(40) % 4
    labels = LabelSet("x", list("abcd"), Aspect.CATEGORY, np.arange(40), right_J)
    right, wrong = (
        Results(name, 8, labels=[LabelResults("classification", labels, said_J, np.full(40, -1))])
        for name, said_J in (("main", right_J), ("wrong", (right_J + 1) % 4))
    )
    found = compare(right, wrong, {}, (), Resampling(100, 0)).differences
    assert {one["metric"]: (one["difference"], one["p"]) for one in found} == {
        "accuracy": (1.0, 1 / (FLIPS + 1)), "f1": (1.0, 1 / (FLIPS + 1))
    }  # fmt: skip
    same = compare(right, right, {}, (), Resampling(100, 0)).differences
    assert [one["p"] for one in same] == [1.0, 1.0]


def test_what_items_add_to_a_difference_in_f1_has_its_mean_and_its_spread() -> None:
    rng = np.random.default_rng(0)
    draws, errors = [], []
    for _ in range(300):
        right_J = rng.integers(0, 5, 400)
        said_JX = np.where(rng.random((400, 2)) < 0.6, right_J[:, None], rng.integers(0, 6, (400, 2)))
        share_J = label_differences(right_J, said_JX)[:, 1]
        difference = macro_f1(right_J, said_JX[:, 0])[0] - macro_f1(right_J, said_JX[:, 1])[0]
        assert share_J.mean() == pytest.approx(difference)
        draws.append(difference)
        errors.append(share_J.std() / 20)
    assert np.mean(errors) == pytest.approx(np.std(draws), rel=0.15)


def test_a_single_query_of_a_domain_has_no_interval(shop: Path, tmp_path: Path) -> None:
    searches = [
        {"query_text": "x", "query_item_id": f"i{n:03}", "item_id": f"i{n + 60:03}"} for n in (1, 2, 4)
    ]
    write_table(tmp_path / "searches.parquet", searches)
    options = {"searches": str(tmp_path / "searches.parquet"), "embeddings": str(shop / "whole")}
    found = evaluated(shop, tmp_path / "run", **options)
    one, two = (found["domains"][name]["retrieval"]["image_to_item"] for name in "BA")
    assert (one["queries"], one["ci"]["mrr"]) == (1, [None, None])
    assert two["queries"] == 2
    assert None not in two["ci"]["mrr"]
    assert "3 queries of 1 retrieval task<" in (tmp_path / "run" / "report.html").read_text()


def test_the_terminal_gets_a_few_lines_and_json_all(shop: Path, tmp_path: Path) -> None:
    options = ["evaluate", "--embeddings", str(shop / "whole"), "--items", str(shop / "items.parquet")]
    options += ["--searches", str(shop / "searches.parquet"), "--device", "cpu"]
    options += ["--baseline", f"nearly={shop / 'nearly'}", "--baseline", f"most={shop / 'most'}"]
    short = CliRunner().invoke(main, [*options, "-o", str(tmp_path / "a")])
    assert short.exit_code == 0, short.output
    lines = short.stdout.splitlines()
    assert len(lines) < 20
    assert lines[0].split() == ["retrieval", "entrant", "hit@1", "hit@10", "mrr", "queries"]
    assert [line.split()[1] for line in lines[1:4]] == ["main", "nearly", "most"]
    assert "main - nearly, paired" in lines
    assert any(line.startswith("not compared with most: 1") for line in lines)
    assert f"{tmp_path / 'a'}/report.html" in lines[-1]
    told = json.loads(CliRunner().invoke(main, [*options, "-o", str(tmp_path / "b"), "--json"]).stdout)
    assert told["comparisons"]
    assert set(told) == {*json.loads((tmp_path / "b" / "metrics.json").read_text()), "lines"}
