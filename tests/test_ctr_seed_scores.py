"""`test_scores.parquet` of several seeds: a column for each, kept through a kill, beside the top-3 cosine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from ctr_helpers import planted_taste

import ctr.train
from ctr.train import TrainConfig, train_ctr
from ctr.train_seed import Trained, train_seed
from moonrec.metrics import auc, gauc

COLUMNS = ["user_id", "item_id", "timestamp", "label", "score"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    inputs = planted_taste(users=40, items=80, rows=1_200).save(tmp_path_factory.mktemp("market"))
    return TrainConfig(**inputs, out="", seed=4, seeds=3)


@pytest.fixture(scope="module")
def three(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("runs") / "three"
    return out, train_ctr(replace(config, out=out))


def scores_of(run: Path) -> Any:
    return pq.read_table(run / "test_scores.parquet")


def test_every_seed_has_the_scores_of_the_run_that_it_would_be_alone(
    config: TrainConfig, three: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    found = scores_of(three[0])
    assert found.column_names == [*COLUMNS, "top3_cosine", "score_4", "score_5", "score_6"]
    for seed in (4, 6):
        train_ctr(replace(config, out=tmp_path / f"{seed}", seed=seed, seeds=1))
        alone = scores_of(tmp_path / f"{seed}")
        assert alone.column_names == [*COLUMNS, "top3_cosine"]
        assert alone["score"].equals(found[f"score_{seed}"])
        assert alone.select([*COLUMNS[:4], "top3_cosine"]).equals(found.select([*COLUMNS[:4], "top3_cosine"]))
    assert found["score"].equals(found["score_4"])


def test_the_columns_give_the_metrics_of_the_run(three: tuple[Path, dict[str, Any]]) -> None:
    found, metrics = scores_of(three[0]), three[1]
    labels = found["label"].to_numpy()
    users = np.unique(found["user_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    for one in metrics["seeds"]:
        scores = found[f"score_{one['seed']}"].to_numpy()
        assert auc(labels, scores) == pytest.approx(one["test"]["auc"], abs=1e-9)
        assert gauc(users, labels, scores) == pytest.approx(one["test"]["gauc"], abs=1e-9)
    top3 = found["top3_cosine"].to_numpy()
    baseline = metrics["baseline"]["top3_cosine"]
    assert auc(labels, top3) == pytest.approx(baseline["auc"])
    assert gauc(users, labels, top3) == pytest.approx(baseline["gauc"])


def test_ids_alone_have_no_cosine(config: TrainConfig, tmp_path: Path) -> None:
    train_ctr(replace(config, out=tmp_path / "ids", embeddings=(), seeds=2))
    assert scores_of(tmp_path / "ids").column_names == [*COLUMNS, "score_4", "score_5"]


class _PulledPlug(BaseException):
    """Ends a run as nothing in it expects."""


@pytest.mark.parametrize("moment", ["while training", "with its scores written"])
def test_scores_of_finished_seeds_survive_an_end_in_a_later_seed(
    moment: str,
    config: TrainConfig,
    three: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []

    def train_and_note(config: TrainConfig, settings: Any, *arguments: Any, **named: Any) -> Trained:
        seeds.append(settings.seed)
        if moment == "while training" and seeds == [4, 5]:
            raise _PulledPlug
        return train_seed(config, settings, *arguments, **named)

    def add_and_end(*arguments: Any) -> None:
        add(*arguments)
        raise _PulledPlug

    add = ctr.train.add_scores
    monkeypatch.setattr(ctr.train, "train_seed", train_and_note)
    with monkeypatch.context() as patched:
        if moment == "with its scores written":
            patched.setattr(ctr.train, "add_scores", add_and_end)
        with pytest.raises(_PulledPlug):
            train_ctr(replace(config, out=tmp_path / "run"))
    train_ctr(replace(config, out=tmp_path / "run"))
    assert seeds == [4, 5, 5, 6]
    assert scores_of(tmp_path / "run").equals(scores_of(three[0]))
