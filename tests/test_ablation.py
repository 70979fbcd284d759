"""Ablations whose training is a formula: plan, resuming, statistics, and what is told beside the papers."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from moonrec.ablation.cells import Trained
from moonrec.ablation.metrics import HEADLINE, cell_metrics
from moonrec.ablation.plan import plan_rows
from moonrec.ablation.run import Request, Steps, run_ablation
from moonrec.ablation.statistics import paired_difference, summary
from moonrec.ablation.study import STUDIES
from moonrec.errors import UserError
from moonrec.study.settings import parse_settings

AUGMENTED = ("item_id", "title", "images_augmented")


class Workshop:
    """Trainings that write what they were asked, tests that read it, and a list of both.

    A part that is left out costs its share of the recall; a seed moves it up or down.
    """

    costs: Mapping[str, float] = {"experts": 0.1, "filter": 0.02, "regions": 0.3, "spatial": 0.01}

    def __init__(self) -> None:
        self.trained: list[tuple[str, int]] = []
        self.tested: list[str] = []
        self.breaks_at: tuple[str, int] | None = None
        self.test_breaks_at: str | None = None

    def resolve(self, flags: Mapping[str, str]) -> dict[str, Any]:
        return {"epochs": "20", **flags}

    def train(self, flags: Mapping[str, str], seed: int, out: Path) -> Trained:
        place = (out.parent.name, seed)
        if place == self.breaks_at:
            raise UserError("the loss is nan")
        self.trained.append(place)
        out.mkdir(parents=True)
        (out / "flags.json").write_text(json.dumps([flags, seed]))
        return Trained(10.0 + seed, ("round 2",) if flags.get("loss") == "infonce" else ())

    def test(self, encoder: Path, out: Path) -> Mapping[str, Any]:
        name = f"{encoder.parent.name}/{out.name}"
        if name == self.test_breaks_at:
            raise KeyboardInterrupt
        self.tested.append(name)
        flags, seed = json.loads((encoder / "flags.json").read_text())
        lost = sum(cost for name, cost in self.costs.items() if flags.get(name) in ("0", "false"))
        image = 0.8 - lost + 0.01 * seed * (1 + lost)
        share = flags.get("modality_mix", "1:1:1").split(":")
        text = 0.5 + 0.1 * float(share[1]) / (1 + sum(map(float, share)))
        return {
            "retrieval": {
                "image_to_item": {"hit@1": image / 2, "hit@10": image},
                "text_to_item": {"hit@10": text},
            },
            "classification": {"level1": {"accuracy": 0.9}, "level2": {"accuracy": 0.5}},
            "attributes": {},
        }

    def steps(self) -> Steps:
        return Steps(self.resolve, self.train, self.test)


def request(out: Path, study: str = "moon2", **options: Any) -> Request:
    defaults: dict[str, Any] = {
        "rows": (),
        "settings": {},
        "seeds": 3,
        "inputs": {"items": "a", "test": "b"},
        "item_columns": ("item_id", "title"),
        "config": {"study": study},
    }
    return Request(out=out, studies=[STUDIES[study]], **(defaults | options))


def rows_of(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["row"]: row for row in metrics["rows"]}


numbers = st.floats(-1, 1, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=9))
def test_the_interval_is_that_of_a_paired_t_test(pairs: Sequence[tuple[float, float]]) -> None:
    own, other = ({seed: pair[side] for seed, pair in enumerate(pairs)} for side in (0, 1))
    found = paired_difference({**own, 99: 5.0}, {**other, 77: 5.0})
    assert found is not None
    assert found.low is not None
    apart = np.array([a - b for a, b in pairs])
    assert found.seeds == len(pairs)
    assert found.mean == pytest.approx(apart.mean(), abs=1e-9)
    error = stats.sem(apart)
    if error > 1e-9:
        low, high = stats.ttest_rel(list(own.values()), list(other.values())).confidence_interval(0.95)
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
        assert found.excludes_zero() == (stats.ttest_1samp(apart, 0).pvalue < 0.05)


def test_a_single_seed_has_a_mean_and_nothing_else() -> None:
    assert (summary({4: 0.5}).mean, summary({4: 0.5}).sd) == (0.5, None)
    found = paired_difference({4: 0.5}, {4: 0.7, 5: 0.1})
    assert found is not None
    assert (found.seeds, found.low, found.high, found.excludes_zero()) == (1, None, None, None)
    assert found.mean == pytest.approx(-0.2)
    assert paired_difference({4: 0.5}, {5: 0.7}) is None


def test_levels_and_attributes_count_alike_and_undefined_numbers_are_left_out() -> None:
    tested = {
        "retrieval": {
            "image_to_item": {"hit@1": None, "hit@10": 0.4, "mrr": 0.2},
            "colour_to_item": {"hit@10": 1},
        },
        "classification": {
            "level1": {"accuracy": 0.9},
            "level2": {"accuracy": 0.5},
            "level3": {"accuracy": None},
        },
        "attributes": {},
        "queries": 3,
    }
    assert cell_metrics(tested, None) == {
        "retrieval.image_to_item.hit@10": 0.4,
        "classification.accuracy": pytest.approx(0.7),
    }


def test_tables_hold_mean_spread_and_the_difference_paired_by_seed(tmp_path: Path) -> None:
    shop = Workshop()
    metrics = run_ablation(request(tmp_path / "run", item_columns=AUGMENTED), shop.steps())
    rows = rows_of(metrics)
    found = rows["without-moe"]["metrics"]["retrieval.image_to_item.hit@10"]
    assert found["mean"] == pytest.approx(0.7 + 0.011)
    assert found["sd"] == pytest.approx(0.011)
    # The seed moves both rows; what it moves them apart by is a tenth of that.
    apart = np.array([-0.1, -0.1 + 0.001, -0.1 + 0.002])
    half = stats.t.ppf(0.975, 2) * stats.sem(apart)
    assert found["difference"]["mean"] == pytest.approx(apart.mean())
    assert found["difference"]["high"] == pytest.approx(apart.mean() + half)
    assert rows["full"]["metrics"]["train.seconds"]["mean"] == pytest.approx(11.0)
    with (tmp_path / "run" / "cells.csv").open(encoding="utf-8") as stream:
        cells = list(csv.DictReader(stream))
    assert len(cells) == 5 * 3 * 5
    with (tmp_path / "run" / "table.csv").open(encoding="utf-8") as stream:
        table = {(line["row"], line["metric"]): line for line in csv.DictReader(stream)}
    line = table["without-moe", "retrieval.image_to_item.hit@10"]
    assert float(line["ci_low"]) == pytest.approx(apart.mean() - half)
    assert float(line["paper_difference"]) == pytest.approx(-0.1649)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert (
        page.index("all parts: image → item, hit@10")
        < page.index("points [-10.15, -9.65]")
        < page.index("<table")
    )
    text = (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    assert "| without MoE | all parts | -9.90 [-10.15, -9.65] |" in text
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "cells", "cells.csv", "config.yaml", "metrics.json", "provenance.json", "report.html", "table.csv",
        "table.md", "table.png",
    }  # fmt: skip


def test_the_paper_stands_beside_and_disagreement_is_told(tmp_path: Path) -> None:
    shop = Workshop()
    shop.costs = {"experts": -0.1, "filter": 0.3}
    metrics = run_ablation(request(tmp_path / "run"), shop.steps())
    image = "retrieval.image_to_item.hit@10"
    beside = {(one["row"], one["metric"]): one for one in metrics["beside_the_papers"]["drops"]}
    moe = beside["moon2-without-moe", image]
    assert (moe["paper"], moe["verdict"]) == (16.49, "opposite sign")
    assert beside["moon2-without-filter", image]["verdict"] == "same sign"
    assert beside["moon2-without-moe", "classification.accuracy"]["verdict"] == "no effect here"
    orders = {one["metric"]: one for one in metrics["beside_the_papers"]["orders"]}
    assert orders[image]["paper"] == ("without-alignment", "without-moe", "without-filter")
    assert orders[image]["ours"] == ("without-filter", "without-alignment", "without-moe")
    assert orders[image]["verdict"] == "another order"
    assert orders["classification.accuracy"]["verdict"] == "ties here"
    assert "opposite sign" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")


def test_moons_order_and_rounds_that_changed_nothing_are_told(tmp_path: Path) -> None:
    metrics = run_ablation(request(tmp_path / "run", "moon"), Workshop().steps())
    (order,) = metrics["beside_the_papers"]["orders"]
    assert order["paper"] == ("without-regions", "without-guidance", "without-spatial-temporal")
    assert order["ours"] == ("without-regions", "without-spatial-temporal", "without-guidance")
    assert {row["row"]: row["idle_rounds"] for row in metrics["rows"] if row["idle_rounds"]} == {
        "without-circle": {"round 2": 3}
    }
    text = (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    assert "by seeds: without circle loss: round 2 in 3 of 3." in text


def test_the_mix_sweep_compares_joint_with_taking_turns_and_draws_the_trade_off(tmp_path: Path) -> None:
    metrics = run_ablation(request(tmp_path / "run", "mix", seeds=1), Workshop().steps())
    rows = rows_of(metrics)
    assert len(rows) == 10
    found = rows["joint-12-3-2"]["metrics"]["retrieval.text_to_item.hit@10"]
    assert found["against"] == "mix-turns-12-3-2"
    assert "difference" not in rows["turns-12-3-2"]["metrics"]["retrieval.text_to_item.hit@10"]
    assert (tmp_path / "run" / "mix.png").stat().st_size > 5000
    assert "One seed" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")


def test_a_row_that_the_data_cannot_show_is_left_out_with_the_reason(tmp_path: Path) -> None:
    shop = Workshop()
    metrics = run_ablation(request(tmp_path / "run", seeds=1), shop.steps())
    assert "without-augmentation" not in rows_of(metrics)
    (left_out,) = metrics["left_out"]
    assert left_out["row"] == "without-augmentation"
    assert "images_augmented" in left_out["reason"]
    assert "images_augmented" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"nothing of it can be run .*images_augmented"):
        run_ablation(request(tmp_path / "other", rows=("without-augmentation",)), shop.steps())


def test_a_row_that_set_makes_equal_to_the_full_one_is_left_out() -> None:
    _, left_out = plan_rows([STUDIES["moon"]], (), {"loss": "infonce"}, (), Workshop().resolve)
    assert [one.row for one in left_out] == ["without-circle"]


def test_rows_of_several_studies_with_the_same_options_are_run_once(tmp_path: Path) -> None:
    shop = Workshop()
    asked = request(tmp_path / "run", seeds=2, rows=("full",), settings={"rounds": "1"})
    both = replace(asked, studies=[STUDIES["moon"], STUDIES["moon2"]])
    metrics = run_ablation(both, shop.steps())
    assert [row["study"] for row in metrics["rows"]] == ["moon", "moon2"]
    assert shop.trained == [("moon2-full", 0), ("moon2-full", 1)]
    # Alone, either study finds them again.
    run_ablation(replace(both, studies=[STUDIES["moon"]]), shop.steps())
    assert len(shop.trained) == 2


@pytest.mark.parametrize("study", sorted(STUDIES))
def test_names_are_unique_and_rows_are_compared_with_rows_that_there_are(study: str) -> None:
    rows = {row.name: row for row in STUDIES[study].rows}
    assert len(rows) == len(STUDIES[study].rows)
    assert all(row.against is None or row.against in rows for row in rows.values())
    assert len(HEADLINE) == 7


def test_settings_take_several_and_keep_commas_of_values() -> None:
    given = ("epochs=5", "dims=64", "32", "--batch-size = 16")
    assert parse_settings(given, "--set", "posttrain") == {"epochs": "5", "dims": "64,32", "batch_size": "16"}
    for wrong, message in ((("epochs",), "NAME=VALUE"), (("=5",), "NAME=VALUE"), (("a=1", "a=2"), "twice")):
        with pytest.raises(UserError, match=message):
            parse_settings(wrong, "--set", "posttrain")
