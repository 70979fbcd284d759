"""The command `moonrec exchange-rate`: plan, cells that are found again, and what it writes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from exchange_market import blurred, planted_study, write_set

import moonrec.cli.exchange_judge as judge_module
import moonrec.exchange.write as write_module
from moonrec.cli import main
from moonrec.cli.exchange_study import ExchangeConfig, exchange_rate
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ExchangeConfig:
    return planted_study(tmp_path_factory.mktemp("study"))


@dataclass(frozen=True)
class Killed:
    """What a kill before the third judge left, and what the plan told of it."""

    names: set[str]
    plan: dict[str, Any]
    judged: list[str]


@pytest.fixture(scope="module")
def finished(
    study: ExchangeConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExchangeConfig, dict[str, Any], Killed]:
    """A study that is killed once, and then goes on to its end."""
    config = replace(study, out=str(tmp_path_factory.mktemp("runs") / "run"))
    judged: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        noted_judges(patch, judged, fails_at=3)
        with pytest.raises(KeyboardInterrupt):
            exchange_rate(config)
        names = {path.name for path in Path(config.out).iterdir()}
        plan = exchange_rate(replace(config, plan=True))
        return config, exchange_rate(config), Killed(names, plan, judged)


def noted_judges(patch: pytest.MonkeyPatch, judged: list[str], fails_at: int = 0) -> None:
    """Note which versions meet the judge; the given one is killed."""
    train = judge_module.ClickModel.run

    def noted(model: Any, vectors: Path | None, out: Path) -> None:
        judged.append(out.parent.name)
        if len(judged) == fails_at:
            raise KeyboardInterrupt
        train(model, vectors, out)

    patch.setattr(judge_module.ClickModel, "run", noted)


def rate_of(
    metrics: dict[str, Any], metric: str, outcome: str = "auc", domain: str = "all"
) -> dict[str, Any]:
    return next(
        r for r in metrics["rates"] if (r["metric"], r["outcome"], r["domain"]) == (metric, outcome, domain)
    )


def test_less_noise_is_worth_clicks_and_the_files_say_so(
    finished: tuple[ExchangeConfig, dict[str, Any], Killed],
) -> None:
    config, metrics, _ = finished
    out = Path(config.out)
    assert json.loads((out / "metrics.json").read_text()) == {
        k: v for k, v in metrics.items() if k != "lines"
    }
    top3 = rate_of(metrics, "top3_cosine.auc")
    assert top3["established"]
    assert 0 < top3["ci_low"] < top3["slope"] < top3["ci_high"]
    assert (top3["points"], top3["seeds"], top3["families"]) == (5, 2, 5)
    assert {rate["domain"] for rate in metrics["rates"]} == {"all", "blue", "red"}
    assert {step["metric"] for step in metrics["steps"]} >= {"top3_cosine.auc"}
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {
        "cells", "metrics.json", "table.md", "rates.csv", "report.html", "config.yaml", "provenance.json"
    }  # fmt: skip
    assert len((out / "rates.csv").read_text().splitlines()) == 1 + len(metrics["rates"])


def test_what_versions_are_told_at_is_what_their_own_runs_say(
    finished: tuple[ExchangeConfig, dict[str, Any], Killed],
) -> None:
    config, metrics, _ = finished
    for version in metrics["versions"]:
        cells = Path(config.out) / "cells" / version["name"]
        evaluated = json.loads((cells / "evaluation" / "metrics.json").read_text())
        judged = json.loads((cells / "judge" / "metrics.json").read_text())
        for name in ("hit@1", "hit@10", "mrr", "ndcg@10"):
            found = version["metrics"][f"retrieval.image_to_item.{name}"]
            assert found == pytest.approx(evaluated["retrieval"]["image_to_item"][name], abs=1e-6)
        assert version["judge"]["auc"]["values"] == pytest.approx(judged["spread"]["auc"]["values"])
        assert version["judge"]["gauc"]["mean"] == pytest.approx(judged["test"]["gauc"])
        assert version["metrics"]["top3_cosine.gauc"] == pytest.approx(
            judged["baseline"]["top3_cosine"]["gauc"]
        )
    ids = metrics["judge"]["ids_only"]["auc"]
    assert len(ids["values"]) == 2
    assert ids["mean"] < metrics["versions"][0]["judge"]["auc"]["mean"]


def test_a_new_version_and_what_was_lost_are_all_that_is_computed_anew(
    finished: tuple[ExchangeConfig, dict[str, Any], Killed], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, metrics, _ = finished
    judged: list[str] = []
    noted_judges(monkeypatch, judged)
    first = EmbeddingSet.open(config.version[0].partition("=")[2])
    vectors = blurred(np.concatenate(list(first.blocks())).astype(float), 0.5, np.random.default_rng(1))
    new = write_set(tmp_path / "new", first.ids.to_pylist(), vectors)
    cells = Path(config.out) / "cells"
    (cells / "noise0.3" / "judge" / "test_scores.parquet").unlink()
    (cells / "noise0.6" / "evaluation" / "queries.parquet").unlink()
    more = exchange_rate(replace(config, version=(*config.version, f"new={new}")))
    assert sorted(judged) == ["new", "noise0.3"]
    assert (cells / "noise0.6" / "evaluation" / "queries.parquet").is_file()
    assert more["versions"][:5] == metrics["versions"]
    assert more["versions"][5]["judge"] != metrics["versions"][0]["judge"]


def test_a_kill_leaves_no_report_and_the_next_call_goes_on(
    finished: tuple[ExchangeConfig, dict[str, Any], Killed],
) -> None:
    killed = finished[2]
    assert killed.names == {"cells", "provenance.json"}
    assert killed.judged == [
        "noise0.0", "noise0.3", "noise0.6", "noise0.6", "noise1.0", "noise2.0", "ids-only"
    ]  # fmt: skip
    assert killed.plan["cells"] == 16
    assert killed.plan["missing"] < 16


def test_numbers_never_stand_beside_tables_of_other_versions(
    finished: tuple[ExchangeConfig, dict[str, Any], Killed], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    shutil.copytree(finished[0].out, out)
    assert (out / "metrics.json").is_file()
    monkeypatch.setattr(write_module, "write_markdown", killed)
    with pytest.raises(KeyboardInterrupt):
        exchange_rate(replace(finished[0], out=str(out), version=finished[0].version[:4], compare=()))
    assert not {"metrics.json", "report.html", "table.md"} & {path.name for path in out.iterdir()}


def test_the_plan_tells_versions_and_time_and_writes_nothing(study: ExchangeConfig, tmp_path: Path) -> None:
    options = [
        "exchange-rate", "--plan", "--items", study.items, "--searches", str(study.searches), "-o",
        str(tmp_path / "run"), "--impressions", study.impressions, "--test", study.test, "--events",
        study.events, "--judge", "epochs=2",
    ]  # fmt: skip
    for version in study.version:
        options += ["--version", version]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output
    assert "5 versions at 16 dimensions, judge with 3 seeds: 16 cells, 16 of them to compute" in result.output
    assert "to go: a guess" in result.output
    assert not (tmp_path / "run").exists()


def test_other_options_than_those_of_finished_cells_are_a_mistake(
    finished: tuple[ExchangeConfig, dict[str, Any], Killed],
) -> None:
    with pytest.raises(
        UserError, match=r"judge.json: this cell was made with another epochs \(1 then, 2 now\)"
    ):
        exchange_rate(replace(finished[0], judge=("epochs=2",)))


def test_embedding_sets_are_priced_as_such(study: ExchangeConfig, tmp_path: Path) -> None:
    lines = exchange_rate(replace(study, plan=True, out=str(tmp_path / "out")))["lines"]
    told = next(line for line in lines if line.endswith("to go: a guess from table sizes and finished cells"))
    assert "min" not in told
    assert " h " not in told
