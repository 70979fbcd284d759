"""Several seeds in one run: what each gives alone, their mean and spread, and that none is trained twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ctr_helpers import planted_taste

import ctr.train
from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.engines.one_process import OneProcess
from ctr.train import TrainConfig, train_ctr
from ctr.train_seed import Trained, train_seed

SPEED = ("seconds", "samples_per_second")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return planted_taste(users=60, items=120, rows=2_000).save(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="module")
def three(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("runs") / "three"
    return out, train_ctr(TrainConfig(**inputs, out=out, seed=4, seeds=3))


def test_each_seed_is_the_run_that_it_would_be_alone(
    inputs: dict[str, Path], three: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    for number, seed in enumerate((4, 5, 6)):
        alone = train_ctr(TrainConfig(**inputs, out=tmp_path / f"{seed}", seed=seed))
        assert three[1]["seeds"][number]["seed"] == seed
        assert three[1]["seeds"][number]["test"] == alone["test"]
        assert three[1]["seeds"][number]["groups"] == alone["groups"]


def test_the_first_seeds_model_scores_and_calibration_are_kept(
    inputs: dict[str, Path], three: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    alone = train_ctr(TrainConfig(**inputs, out=tmp_path / "alone", seed=4))
    for name in ("model/weights.safetensors", "model/model.json"):
        assert (three[0] / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert three[1]["calibration"] == alone["calibration"]


def test_metrics_are_means_with_their_spread(three: tuple[Path, dict[str, Any]]) -> None:
    metrics = three[1]
    for name in ("auc", "gauc", "logloss"):
        values = [one["test"][name] for one in metrics["seeds"]]
        assert metrics["spread"][name]["values"] == values
        assert metrics["test"][name] == metrics["spread"][name]["mean"] == pytest.approx(np.mean(values))
        assert metrics["spread"][name]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert metrics["test"]["rows"] == metrics["seeds"][0]["test"]["rows"]
    groups = [one["groups"][1]["auc"] for one in metrics["seeds"]]
    assert metrics["groups"][1]["auc"] == pytest.approx(np.mean(groups))


def test_the_log_and_the_report_tell_the_seeds_apart(three: tuple[Path, dict[str, Any]]) -> None:
    lines = [json.loads(line) for line in (three[0] / "history.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [4, 5, 6]
    page = (three[0] / "report.html").read_text()
    assert "mean ± sd of 3 seeds" in page
    assert f"{three[1]['test']['auc']:.4f} ± {three[1]['spread']['auc']['sd']:.4f}" in page


def test_one_seed_has_no_spread(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics = train_ctr(TrainConfig(**inputs, out=tmp_path / "run"))
    assert not {"spread", "seeds"} & metrics.keys()


def test_a_model_that_moves_to_another_device_takes_nothing_of_the_data_along(
    inputs: dict[str, Path],
    three: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next seed and the baseline still find the vectors where they were loaded."""

    def train_and_move(*arguments: Any, **named: Any) -> Trained:
        trained = train_seed(*arguments, **named)
        assert isinstance(trained.engine, OneProcess)
        frozen = [one for one in trained.engine._model.modules() if isinstance(one, FrozenEmbeddings)]
        assert frozen
        for one in frozen:
            one.to("meta")
        return trained

    monkeypatch.setattr(ctr.train, "train_seed", train_and_move)
    moved = train_ctr(TrainConfig(**inputs, out=tmp_path / "run", seed=4, seeds=2))
    assert [one["test"] for one in moved["seeds"]] == [one["test"] for one in three[1]["seeds"][:2]]
    assert moved["baseline"] == three[1]["baseline"]
