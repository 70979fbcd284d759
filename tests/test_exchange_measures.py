"""From the files of evaluations and judges to values and sampling covariances: parity with brute force."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from moonrec.domains import Domains
from moonrec.exchange.measure_clicks import click_measures
from moonrec.exchange.measure_labels import agreement_metrics, label_metrics
from moonrec.exchange.measure_queries import query_metrics
from moonrec.exchange.measures import measures
from moonrec.exchange.observations import Metric
from moonrec.macro_f1 import macro_f1
from moonrec.metrics import auc


def named(metrics: list[Metric], name: str, domain: str = "all") -> Metric:
    return next(metric for metric in metrics if (metric.name, metric.domain) == (name, domain))


def queries(rows: list[int], ranks: list[int], task: str = "image_to_item") -> pa.Table:
    """Queries by their row, and the rank at which each finds what it looks for."""
    rank = np.array(ranks)
    return pa.table(
        {
            "entrant": ["main"] * len(rows),
            "task": [task] * len(rows),
            "query_row": pa.array(rows, pa.int64()),
            "domain": ["shoes" if row % 2 else "hats" for row in rows],
            "hit@1": pa.array(rank <= 1).cast(pa.float32()),
            "hit@10": pa.array(rank <= 10).cast(pa.float32()),
            "recall@10": pa.array(rank <= 10).cast(pa.float32()),
            "mrr": pa.array((1 / rank).astype(np.float32)),
            "contrastive_loss": pa.array([None if r > 90 else float(r) for r in ranks], pa.float32()),
        }
    )


def test_versions_are_compared_on_the_queries_that_all_answer() -> None:
    random = np.random.default_rng(0)
    ranks = random.integers(1, 30, (2, 100))
    first = queries(list(range(100)), ranks[0].tolist())
    some = random.permutation(100)[:80]
    second = queries(some.tolist(), ranks[1][some].tolist())
    metrics, left_out = query_metrics([first, None, second])
    mrr = named(metrics, "retrieval.image_to_item.mrr")
    values = (1 / ranks[:, np.sort(some)]).astype(np.float32).astype(float)
    assert mrr.value_V[[0, 2]] == pytest.approx(values.mean(axis=1))
    assert np.isnan(mrr.value_V[1])
    assert mrr.covariance_VV is not None
    assert mrr.covariance_VV[np.ix_([0, 2], [0, 2])] == pytest.approx(np.cov(values, bias=True) / 80)
    shoes = named(metrics, "retrieval.image_to_item.mrr", "shoes")
    assert shoes.value_V[0] == pytest.approx(values[0, np.sort(some) % 2 == 1].mean())
    reasons = {one.name: one.reason for one in left_out}
    assert "80 of 100 queries" in reasons["retrieval.image_to_item"]
    assert reasons["retrieval.image_to_item.recall@10"].startswith("is hit@10 here")


def test_a_domain_of_few_queries_is_left_out_with_the_reason() -> None:
    metrics, left_out = query_metrics([queries([*range(0, 60, 2), 1, 3], [3] * 32)] * 2)
    assert {metric.domain for metric in metrics} == {"all", "hats"}
    assert [(one.domain, one.reason) for one in left_out if one.domain != "all"] == [
        ("shoes", "2 queries, fewer than 20")
    ]


def test_queries_without_a_loss_count_for_no_loss() -> None:
    ranks = [*range(1, 31), *[99] * 10]
    metrics, _ = query_metrics([queries(list(range(40)), ranks)] * 2)
    loss = named(metrics, "retrieval.image_to_item.contrastive_loss")
    assert loss.value_V == pytest.approx(np.arange(1, 31).mean())


def test_macro_f1_and_its_influence_agree_with_scikit_learn_and_with_deleting_items() -> None:
    random = np.random.default_rng(1)
    right = random.integers(0, 5, 2_000)
    said = np.where(random.random(2_000) < 0.6, right, random.integers(0, 7, 2_000))
    value, influence = macro_f1(right, said)
    labels = np.unique(right)
    assert value == pytest.approx(f1_score(right, said, labels=labels, average="macro"))
    assert influence.sum() == pytest.approx(0, abs=1e-9)
    for item in range(20):
        kept = np.arange(2_000) != item
        without = f1_score(right[kept], said[kept], labels=labels, average="macro")
        assert (value - without) == pytest.approx(influence[item], rel=0.02, abs=1e-6)


def labels(said: np.ndarray, right: np.ndarray, task: str, name: str) -> pa.Table:
    count = len(said)
    return pa.table(
        {
            "entrant": ["main"] * count,
            "task": [task] * count,
            "name": [name] * count,
            "item_id": [f"i{item}" for item in range(count)],
            "domain": pa.nulls(count, pa.string()),
            "label": [f"c{code}" for code in right],
            "predicted": [None if code < 0 else f"c{code}" for code in said],
        }
    )


def test_accuracies_and_their_covariances_are_those_of_paired_items() -> None:
    random = np.random.default_rng(2)
    right = random.integers(0, 3, 300)
    said = np.where(random.random((2, 300)) < 0.7, right, random.integers(0, 3, (2, 300)))
    colour = np.where(random.random((2, 300)) < 0.5, right, random.integers(0, 3, (2, 300)))
    colour[:, 100:] = -1
    tables = [
        pa.concat_tables(
            labels(answers[v], right, task, name)
            for answers, task, name in (
                (said, "classification", "level1"),
                (colour, "attributes", "colour"),
                (said, "attributes", "shape"),
            )
        )
        for v in range(2)
    ]
    metrics, _ = label_metrics(tables)
    accuracy = named(metrics, "classification.level1.accuracy")
    assert accuracy.value_V == pytest.approx((said == right).mean(axis=1))
    assert accuracy.covariance_VV == pytest.approx(np.cov((said == right).astype(float), bias=True) / 300)
    mean = named(metrics, "attributes.accuracy")
    shape, own = (said == right).mean(axis=1), (colour[:, :100] == right[:100]).mean(axis=1)
    assert mean.value_V == pytest.approx((shape + own) / 2)
    # Drawn anew item by item, an item's colour and shape come together.
    drawn = random.integers(0, 300, (4_000, 300))
    one = ((said[0] == right)[drawn]).mean(axis=1)
    has = drawn < 100
    two = (((colour[0] == right)[drawn] & has).sum(axis=1)) / has.sum(axis=1)
    assert mean.covariance_VV is not None
    assert mean.covariance_VV[0, 0] == pytest.approx(((one + two) / 2).var(), rel=0.1)


def test_agreement_is_own_minus_others_whatever_the_order_of_items() -> None:
    own, others = np.linspace(0.2, 0.9, 40), np.linspace(0.1, 0.3, 40)
    table = pa.table(
        {
            "entrant": ["main"] * 40, "item_id": [f"i{i}" for i in range(40)],
            "domain": pa.nulls(40, pa.string()), "own": own, "others": others,
        }
    )  # fmt: skip
    metrics, _ = agreement_metrics([table, table.take(list(range(39, -1, -1)))])
    found = named(metrics, "agreement.image_text")
    assert found.value_V == pytest.approx((own - others).mean())
    assert found.covariance_VV is not None
    assert np.ptp(found.covariance_VV) == pytest.approx(0)


def judge_run(folder: Path, scores: dict[str, np.ndarray], users: np.ndarray, label: np.ndarray) -> Path:
    folder.mkdir()
    table: dict[str, Any] = {
        "user_id": [f"u{user}" for user in users],
        "item_id": [f"i{row % 4}" for row in range(len(users))],
        "label": pa.array(label, pa.int8()),
    }
    pq.write_table(pa.table(table | scores), folder / "test_scores.parquet")
    return folder


@pytest.fixture
def judged(tmp_path: Path) -> tuple[list[Path], np.ndarray, list[dict[str, np.ndarray]], np.ndarray]:
    """Two versions on the same rows of 150 users, a better one and a worse one."""
    random = np.random.default_rng(3)
    users = random.integers(0, 150, 3_000)
    label = (random.random(3_000) < 0.3).astype(int)
    names = ("score", "score_0", "score_1", "top3_cosine")
    noise = random.normal(size=3_000)
    scores = [
        {name: signal * label + noise + 0.3 * random.normal(size=3_000) for name in names}
        for signal in (0.8, 0.4)
    ]
    runs = [judge_run(tmp_path / str(v), one, users, label) for v, one in enumerate(scores)]
    return runs, label, scores, users


def test_outcomes_are_the_auc_of_each_seed_by_domain(
    judged: tuple[list[Path], np.ndarray, list[dict[str, np.ndarray]], np.ndarray],
) -> None:
    runs, label, scores, _ = judged
    domains = Domains(pa.array([f"i{i}" for i in range(4)]), np.array([0, 0, 1, -1], np.int32), ["a", "b"], 1)
    metrics, outcomes, left_out = click_measures(runs, 2, domains)
    whole = next(o for o in outcomes if (o.name, o.domain) == ("auc", "all"))
    for version, seed in ((0, 0), (1, 1)):
        expected = roc_auc_score(label, scores[version][f"score_{seed}"])
        assert whole.value_VS[version, seed] == pytest.approx(expected)
    in_a = np.arange(3_000) % 4 < 2
    part = next(o for o in outcomes if (o.name, o.domain) == ("auc", "a"))
    assert part.value_VS[0, 1] == pytest.approx(roc_auc_score(label[in_a], scores[0]["score_1"][in_a]))
    top3 = named(metrics, "top3_cosine.auc")
    assert top3.value_V[1] == pytest.approx(roc_auc_score(label, scores[1]["top3_cosine"]))
    assert not left_out


def test_the_covariances_are_those_of_drawing_users_anew(
    judged: tuple[list[Path], np.ndarray, list[dict[str, np.ndarray]], np.ndarray],
) -> None:
    runs, label, scores, users = judged
    none = Domains(pa.array([], pa.string()), np.zeros(0, np.int32), [], 0)
    metrics, outcomes, _ = click_measures(runs, 2, none)
    random = np.random.default_rng(4)
    rows_of = [np.flatnonzero(users == user) for user in range(150)]
    drawn = []
    for _ in range(400):
        at = np.concatenate([rows_of[user] for user in random.integers(0, 150, 150)])
        judge = [np.mean([auc(label[at], s[f"score_{k}"][at]) for k in (0, 1)]) for s in scores]
        drawn.append([*judge, *(auc(label[at], s["top3_cosine"][at]) for s in scores)])
    expected = np.cov(np.array(drawn).T)
    outcome, top3 = outcomes[0], named(metrics, "top3_cosine.auc")
    assert outcome.covariance_VV is not None
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs(outcome.covariance_VV - expected[:2, :2]) / scale[:2, :2] == pytest.approx(0, abs=0.2)
    shared = top3.shared_VV["auc"]
    assert np.abs(shared - expected[2:, :2]) / scale[2:, :2] == pytest.approx(0, abs=0.2)


def test_a_domain_with_few_rows_or_one_class_is_left_out_with_its_metrics(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    label = (random.random(1_000) < 0.4).astype(int)
    label[2::4] = 0
    label[3::4] = np.arange(250) % 2
    scores = {"score": random.random(1_000), "top3_cosine": random.random(1_000)}
    runs = [judge_run(tmp_path / str(v), scores, random.integers(0, 30, 1_000), label) for v in range(2)]
    domains = Domains(pa.array(["i0", "i1", "i2"]), np.array([0, 0, 1], np.int32), ["many", "one class"], 1)
    found = measures([None, None], runs, 1, domains)
    assert {outcome.domain for outcome in found.outcomes} == {"all", "many"}
    assert {metric.domain for metric in found.metrics} == {"all", "many"}
    reasons = {one.domain: one.reason for one in found.left_out}
    assert reasons == {"one class": "all 250 test impressions have the label 0"}


def test_an_outcome_whose_spread_over_users_is_unknown_is_left_out(tmp_path: Path) -> None:
    """A domain where one user alone has both classes has a GAUC, but nobody to tell how it would vary."""
    random = np.random.default_rng(6)
    users = random.integers(1, 30, 1_000)
    label = users % 2
    users[:20], label[:20] = 0, np.arange(20) % 2
    scores = {"score": random.random(1_000), "top3_cosine": random.random(1_000)}
    runs = [judge_run(tmp_path / str(v), scores, users, label) for v in range(2)]
    metrics, outcomes, left_out = click_measures(
        runs, 1, Domains(pa.array([], pa.string()), np.zeros(0, np.int32), [], 0)
    )
    assert [outcome.name for outcome in outcomes] == ["auc"]
    assert [metric.name for metric in metrics] == ["top3_cosine.auc"]
    assert outcomes[0].covariance_VV is not None
    assert np.isfinite(outcomes[0].covariance_VV).all()
    assert [(one.name, one.reason) for one in left_out] == [
        ("gauc", "fewer than two users have both a click and a row without one")
    ]


def test_labels_are_read_set_by_set_without_an_object_per_row() -> None:
    right = np.arange(20_000) % 7
    names = [f"attribute{number}" for number in range(8)]
    tables = [pa.concat_tables(labels(right, right, "attributes", name) for name in names)] * 2
    tracemalloc.start()
    metrics, _ = label_metrics(tables)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert named(metrics, "attributes.accuracy").value_V == pytest.approx(1.0)
    # 15 bytes for each of the 320,000 rows; with names and domains as Python objects it were over 100.
    assert peak < 320_000 * 30


def test_labels_of_other_items_in_another_order_are_paired_by_item() -> None:
    random = np.random.default_rng(7)
    right, said = random.integers(0, 3, 200), random.integers(0, 3, (2, 200))
    first, second = (labels(one, right, "attributes", "colour") for one in said)
    domain = pa.array(["hats" if item < 120 else None for item in range(200)])
    place = first.column_names.index("domain")
    first, second = (table.set_column(place, "domain", domain) for table in (first, second))
    kept, shuffled = np.arange(150), 50 + random.permutation(150)
    metrics, _ = label_metrics([first.take(pa.array(kept)), second.take(pa.array(shuffled))])
    both = np.arange(50, 150)
    whole, hats = (named(metrics, "attributes.accuracy", name) for name in ("all", "hats"))
    assert whole.value_V == pytest.approx((said == right)[:, both].mean(axis=1))
    assert hats.value_V == pytest.approx((said == right)[:, 50:120].mean(axis=1))
