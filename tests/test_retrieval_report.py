from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr.data.ragged import Ragged
from ctr.retrieval.collapse import spread
from ctr.retrieval.method_comparison import compare_methods
from ctr.retrieval.popularity import popularity_candidates
from ctr.retrieval.positives import Positives, new_positives
from ctr.retrieval.retrieval_report import write_report
from ctr.retrieval.retrieval_verdict import verdict, warnings_of

REQUESTS, ITEMS, LISTED = 600, 400, 200


def lists_that_find(target_Q: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Random lists that hold the target of about so many requests, near the top."""
    lists = np.argsort(rng.random((len(target_Q), ITEMS)), axis=1)[:, :LISTED]
    found_Q = rng.random(len(target_Q)) < share
    swapped = np.where(lists == target_Q[:, None], lists[:, :1], lists)
    swapped[found_Q, rng.integers(0, 20, found_Q.sum())] = target_Q[found_Q]
    return swapped


def made_up(shares: dict[str, float], new_items: int = 80, collapsed: bool = False) -> dict[str, Any]:
    """The content of metrics.json; `shares` says how often the model and each baseline find the target."""
    rng = np.random.default_rng(0)
    count = rng.zipf(1.4, ITEMS).clip(max=200)
    count[ITEMS - new_items :] = 0
    target = rng.integers(0, ITEMS, REQUESTS)
    positives = Positives(np.arange(REQUESTS), target, np.ones(REQUESTS, np.int64))
    nothing = Ragged(np.zeros(0, np.int64), np.zeros(REQUESTS + 1, np.int64))
    lists = {name: lists_that_find(target, share, rng) for name, share in shares.items()}
    lists["popularity"] = popularity_candidates(count, nothing, LISTED)
    _, rows = new_positives(positives, count)
    vectors = rng.standard_normal((ITEMS, 16)) + (9 if collapsed else 0.3)
    compared = compare_methods(
        lists, positives, np.arange(REQUESTS) // 3, count,
        {name: lists[name][rows] for name in ("model", "content_mean") if name in lists}, 0,
    )  # fmt: skip
    metrics = {
        **compared,
        "collapse": {**spread(vectors), "users": spread(vectors[:200]), "frozen": spread(vectors)},
        "coverage": {"target": 0.93, "history": 0.91, "catalogue": 0.95},
        "train": {
            "rows": 152_000, "seconds": 41.3, "samples_per_second": 29_400.0, "epochs": 10, "best_epoch": 6,
            "temperature": 0.071,
        },
        "index": {
            "exact": {"recall": 1.0, "requests_per_second": 5_120.0, "bytes": 1_072_000},
            "hnsw": {
                "parameters": {"M": 32, "ef": 96}, "recall": 0.962, "latency_p50_ms": 0.31,
                "requests_per_second": 11_200.0, "bytes": 3_310_000,
            },
        },
    }  # fmt: skip
    return metrics | {"warnings": warnings_of(metrics)}


HISTORY = [
    {
        "epoch": epoch, "step": epoch * 150, "seed": 0, "loss": 6.2 * 0.9**epoch + 1,
        "temperature": 0.1 * 0.95**epoch, "validation_recall@100": 0.3 - 0.2 * 0.7**epoch,
        "mean_cosine": 0.1 + 0.01 * epoch, "effective_rank": 40 - epoch,
    }
    for epoch in range(1, 9)
]  # fmt: skip
OPTIONS = {"seed": 0, "history": 50, "dim": 64, "embeddings": "embeddings/items"}
STRONG = {"model": 0.6, "item_knn": 0.35, "content_mean": 0.3}


def page_of(tmp_path: Path, metrics: dict[str, Any]) -> Path:
    write_report(
        tmp_path / "report.html", metrics, HISTORY, OPTIONS, {"events": "ab12", "embeddings": "cd34"}
    )
    return tmp_path / "report.html"


def words_of(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", page.read_text(), flags=re.S))


def test_the_verdict_says_who_finds_more_and_what_cannot_be_told_apart() -> None:
    better = verdict(made_up(STRONG))
    assert "more than every baseline" in better[0]
    assert "item-kNN (+0." in better[0]
    assert better[1].startswith("On the ")
    assert "for new items" in better[1]
    assert len(better) == 2
    among = verdict(made_up(STRONG, new_items=150))[2]
    assert among.startswith("Ranked among the new items only")
    assert "content mean (+0." in among
    worse = verdict(made_up({"model": 0.3, "item_knn": 0.6, "content_mean": 0.3}))[0]
    assert re.search(r"less than item-kNN \(-0\.\d+ \[-", worse)
    assert "not told from content mean" in worse
    without = verdict(made_up(STRONG, new_items=0))
    assert "nothing is told of these" in without[1]


def test_collapse_and_missing_vectors_are_warned_of() -> None:
    healthy = made_up(STRONG)
    assert healthy["warnings"] == []
    told = made_up(STRONG, collapsed=True)["warnings"]
    assert len(told) == 2
    assert "item vectors" in told[0]
    assert "user vectors" in told[1]
    healthy["coverage"]["target"] = 0.25
    assert warnings_of(healthy) == [
        "Only 25.0% of the test targets have an embedding; the rest get no content."
    ]


def test_the_page_opens_with_the_verdict_and_holds_every_number(tmp_path: Path) -> None:
    metrics = made_up(STRONG, collapsed=True)
    page = words_of(page_of(tmp_path, metrics))
    first, *others = verdict(metrics)
    order = [first, *others, metrics["warnings"][0], "Model and baselines", "New items", "By item frequency",
             "Collapse and training", "Index", "What could be measured", "What made this"]  # fmt: skip
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    for block in ("test", "popularity", "item_knn", "content_mean"):
        for name in ("recall@10", "recall@100", "recall@500", "mrr"):
            assert f"{metrics[block][name]:.4f}" in page
    assert f"{metrics['new_items']['among_new']['chance']['recall@100']:.4f}" in page
    assert "M 32, ef 96" in page
    assert "5,120" in page
    assert "NaN" not in page
    assert " nan" not in page


def test_without_content_or_new_items_the_page_says_what_is_missing(
    tmp_path: Path,
) -> None:
    metrics = made_up({"model": 0.6, "item_knn": 0.35}, new_items=0)
    metrics["coverage"] = {"target": None, "history": None, "catalogue": None}
    metrics["collapse"]["frozen"] = None
    page = words_of(page_of(tmp_path, metrics | {"warnings": warnings_of(metrics)}))
    assert "Without --embeddings" in page
    assert "No test request is for an item" in page


def test_several_seeds_are_told_with_their_spread(tmp_path: Path) -> None:
    metrics = made_up(STRONG)
    metrics["spread"] = {"recall@100": {"mean": 0.7, "sd": 0.0123, "values": [0.69, 0.71]}}
    metrics["seeds"] = [{"seed": seed, "test": metrics["test"]} for seed in (0, 1)]
    page = words_of(page_of(tmp_path, metrics))
    assert "± 0.0123 over seeds" in page
    assert "per seed" in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api", reason="playwright is in requirements/dev.txt")
    from browser_helpers import started_browser

    with started_browser() as started:
        yield started


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window_and_is_quiet(width: int, browser: Any, tmp_path: Path) -> None:
    from browser_helpers import visited

    with visited(browser, page_of(tmp_path, made_up(STRONG)), width) as visit:
        assert len(visit.image_widths()) == 7
        assert all(visit.image_widths())
        assert visit.overflow() <= 0
        assert visit.complaints == []
