"""The command `moonrec exchange-rate`: plan, mistakes, cells that are found again, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from ctr_helpers import planted_taste

import moonrec.cli.exchange_judge as judge_module
from moonrec.cli import main
from moonrec.cli.exchange_study import ExchangeConfig, exchange_rate
from moonrec.embedding_set import EmbeddingSetWriter
from moonrec.errors import UserError

NOISES = (0.0, 0.3, 0.6, 1.0, 2.0)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ExchangeConfig:
    """Users like a style that only vectors tell; a version is these with more or less noise."""
    folder = tmp_path_factory.mktemp("study")
    market = planted_taste(users=150, items=240, rows=2_800)
    paths = market.save(folder / "market")
    ids, random = market.item_ids, np.random.default_rng(0)
    half = [f"i{number}" for number in range(len(ids))]
    pq.write_table(
        pa.table(
            {
                "item_id": half,
                "title": [f"thing {name}" for name in half],
                "category": ["shop > red" if n % 2 else "shop > blue" for n in range(len(half))],
            }
        ),
        folder / "items.parquet",
    )
    nearest = (market.vectors @ market.vectors.T - 9 * np.eye(len(ids))).argmax(axis=1)
    asked = {"query_text": pa.nulls(len(ids), pa.string()), "query_item_id": half}
    pq.write_table(pa.table({**asked, "item_id": [half[n] for n in nearest]}), folder / "searches.parquet")
    versions = []
    for noise in NOISES:
        drawn = random.normal(size=market.vectors.shape)
        vectors = market.vectors + noise * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        with EmbeddingSetWriter(folder / f"noise{noise}", vectors.shape[1], {}) as writer:
            writer.write(pa.array(ids), vectors)
        versions.append(f"noise{noise}={folder / f'noise{noise}'}")
    return ExchangeConfig(
        items=str(folder / "items.parquet"),
        searches=str(folder / "searches.parquet"),
        impressions=str(paths["impressions"]),
        test=str(paths["test"]),
        events=str(paths["events"]),
        version=tuple(versions),
        compare=("noise2.0:noise0.0",),
        seeds=2,
        out=str(folder / "unused"),
    )


@pytest.fixture(scope="module")
def finished(
    study: ExchangeConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExchangeConfig, dict[str, Any]]:
    config = replace(study, out=str(tmp_path_factory.mktemp("runs") / "run"))
    return config, exchange_rate(config)


def rate_of(
    metrics: dict[str, Any], metric: str, outcome: str = "auc", domain: str = "all"
) -> dict[str, Any]:
    return next(
        r for r in metrics["rates"] if (r["metric"], r["outcome"], r["domain"]) == (metric, outcome, domain)
    )


def test_less_noise_is_worth_clicks_and_the_files_say_so(
    finished: tuple[ExchangeConfig, dict[str, Any]],
) -> None:
    config, metrics = finished
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
    finished: tuple[ExchangeConfig, dict[str, Any]],
) -> None:
    config, metrics = finished
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


def test_a_new_version_is_all_that_is_computed_anew(
    finished: tuple[ExchangeConfig, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, metrics = finished
    judged: list[str] = []
    train = judge_module.ClickModel.run

    def noted(model: Any, vectors: Path | None, out: Path) -> None:
        judged.append(out.parent.name)
        train(model, vectors, out)

    monkeypatch.setattr(judge_module.ClickModel, "run", noted)
    more = exchange_rate(
        replace(config, version=(*config.version, f"again={config.version[1].split('=')[1]}"))
    )
    assert judged == ["again"]
    values = {version["name"]: version["judge"]["auc"]["values"] for version in more["versions"]}
    assert values["again"] == values["noise0.3"]
    assert more["versions"][:5] == metrics["versions"]


def test_a_kill_leaves_no_report_and_the_next_call_goes_on(
    study: ExchangeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = replace(study, out=str(tmp_path / "run"), version=study.version[:2], compare=(), seeds=1)
    train = judge_module.ClickModel.run
    judged: list[str] = []

    def third_fails(model: Any, vectors: Path | None, out: Path) -> None:
        judged.append(out.parent.name)
        if len(judged) == 3:
            raise KeyboardInterrupt
        train(model, vectors, out)

    monkeypatch.setattr(judge_module.ClickModel, "run", third_fails)
    with pytest.raises(KeyboardInterrupt):
        exchange_rate(config)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"cells", "provenance.json"}
    told = exchange_rate(replace(config, plan=True))
    assert (told["cells"], told["missing"]) == (7, 1)
    metrics = exchange_rate(config)
    assert judged == ["noise0.0", "noise0.3", "ids-only", "ids-only"]
    rate = rate_of(metrics, "top3_cosine.auc")
    assert not rate["established"]
    assert "2 versions" in rate["why_not"]


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
    finished: tuple[ExchangeConfig, dict[str, Any]],
) -> None:
    with pytest.raises(
        UserError, match=r"judge.json: this cell was made with another epochs \(1 then, 2 now\)"
    ):
        exchange_rate(replace(finished[0], judge=("epochs=2",)))


def narrow(study: ExchangeConfig, folder: Path) -> str:
    with EmbeddingSetWriter(folder / "narrow", 8, {}) as writer:
        writer.write(pa.array([f"i{n}" for n in range(240)]), np.tile(np.eye(8, dtype=np.float32), (30, 1)))
    return f"narrow={folder / 'narrow'}"


def foreign(study: ExchangeConfig, folder: Path) -> str:
    with EmbeddingSetWriter(folder / "foreign", 16, {}) as writer:
        writer.write(pa.array(["x", "i3"]), np.eye(16, dtype=np.float32)[:2])
    return f"foreign={folder / 'foreign'}"


def unfinished(study: ExchangeConfig, folder: Path) -> str:
    (folder / "run.partial" / "model").mkdir(parents=True)
    return f"run={folder / 'run'}"


def empty(study: ExchangeConfig, folder: Path) -> str:
    (folder / "run").mkdir()
    return f"run={folder / 'run'}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (narrow, r"noise0.0 has 16 dimensions, narrow 8: .* --dim 8 cuts all"),
        (foreign, r"foreign=.*: lacks 239 of the 240 items of .* \(i0, i1, i2, …\)"),
        (unfinished, r"there is no folder .*run, only the unfinished .*run.partial; give its command again"),
        (empty, r"holds neither an encoder \(model/config.json\) nor an embedding set"),
        (lambda study, _: f"a/b={study.items}", r"a/b=.*: expected NAME=PATH"),
        (lambda study, _: f"a..b={study.items}", r"without \.\."),
        (lambda study, _: study.version[0], r"noise0.0: names two versions"),
    ],
)
def test_versions_that_cannot_be_compared_are_one_line(
    make: Callable[[ExchangeConfig, Path], str], message: str, study: ExchangeConfig, tmp_path: Path
) -> None:
    config = replace(study, version=(*study.version, make(study, tmp_path)), out=str(tmp_path / "out"))
    with pytest.raises(UserError, match=message) as caught:
        exchange_rate(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": ()}, "0 versions: a rate compares at least 2"),
        ({"compare": ("noise0.0:other",)}, "--compare other: no such version; there are noise0.0, noise0.3"),
        ({"compare": ("noise0.0",)}, "expected A:B"),
        ({"reference": "best"}, "--reference best: no such version"),
        ({"judge": ("content=none",)}, "reads no vectors"),
        ({"judge": ("epoch=2",)}, "--judge epoch: .* no such option; did you mean epochs"),
        ({"judge": ("seed=2",)}, "--judge seed: is not set here"),
        ({"judge": ("epochs=none",)}, "--judge: .*epochs"),
        ({"judge": ("content=cub",)}, "--content cub: expected names out of"),
        ({"dim": 17}, r"--dim 17: --version noise0.0 has 16 dimensions"),
        ({"domain_level": 5}, "--domain-level 5"),
    ],
)
def test_options_that_cannot_be_are_one_line(
    changes: dict[str, Any], message: str, study: ExchangeConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        exchange_rate(replace(study, out=str(tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


def test_a_test_table_that_trains_or_has_one_class_is_one_line(study: ExchangeConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the same table as --impressions"):
        exchange_rate(replace(study, test=study.impressions, out=str(tmp_path / "out")))
    table = pq.read_table(study.test)
    zeros = table.set_column(
        table.column_names.index("label"), "label", pa.array(np.zeros(len(table)), pa.int8())
    )
    pq.write_table(zeros, tmp_path / "zeros.parquet")
    with pytest.raises(UserError, match="all of its 700 rows have the label 0"):
        exchange_rate(replace(study, test=str(tmp_path / "zeros.parquet"), out=str(tmp_path / "out")))


def test_a_trajectory_without_kept_epochs_says_how_to_keep_them(
    study: ExchangeConfig, tmp_path: Path
) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match="epochs is not there; train with `moonrec posttrain --keep-epochs`"):
        exchange_rate(replace(study, trajectory=(f"run={tmp_path / 'run'}",), out=str(tmp_path / "out")))
