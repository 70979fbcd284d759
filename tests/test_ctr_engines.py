"""The two engines train the same model: one process here, two gloo processes with sharded tables there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ctr_helpers import planted_taste
from safetensors.torch import load_file

from ctr.batch import build_batch
from ctr.model import CtrModel
from ctr.one_process import OneProcess
from ctr.run_data import load_run_data
from ctr.train import TrainConfig, train_ctr
from ctr.training import train

CONTENT = ("concat", "simtier", "cube")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    # An odd number of rows: the last batches do not divide by two.
    return planted_taste(users=40, items=60, rows=1_531).save(tmp_path_factory.mktemp("market"))


def test_two_sharded_processes_train_the_same_model_as_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The worker also asserts that no bit of the frozen vectors moved under DistributedModelParallel."""
    options = {"batch_size": 128, "epochs": 2, "content": CONTENT, "seed": 3}
    one = train_ctr(TrainConfig(**inputs, **options, out=tmp_path / "one"))
    arguments = {name: str(path) for name, path in inputs.items()} | options | {"out": str(tmp_path / "two")}
    arguments["content"] = list(CONTENT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*launcher, str(ROOT / "tests" / "ctr_dmp_worker.py"), json.dumps(arguments)],
        check=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    weights = [load_file(tmp_path / name / "model" / "weights.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=2e-5, rtol=1e-4, msg=name)
    scores = [
        pq.read_table(tmp_path / name / "test_scores.parquet")["score"].to_numpy() for name in ("one", "two")
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert two["test"]["rows"] == one["test"]["rows"]
    assert two["test"]["auc"] == pytest.approx(one["test"]["auc"], abs=1e-4)


def test_training_moves_tables_but_not_one_bit_of_the_frozen_vectors(inputs: dict[str, Path]) -> None:
    data = load_run_data(
        impressions=inputs["impressions"],
        test=inputs["test"],
        events=inputs["events"],
        items=None,
        embeddings=inputs["embeddings"],
        history=20,
    )
    assert data.frozen is not None
    before = data.frozen.vectors.clone()
    model = CtrModel(
        users=len(data.vocabulary.users) + 1,
        items=len(data.vocabulary.items) + 1,
        embedding_dim=8,
        frozen=data.frozen,
        content=CONTENT,
        seed=0,
    )
    model.ranker.fit(build_batch(data.train, np.arange(500)))
    tables = {name: value.clone() for name, value in model.ids.state_dict().items()}
    train(OneProcess(model, 1e-3, 0.02), data.train, epochs=1, batch_size=64, seed=0)
    assert torch.equal(data.frozen.vectors, before)
    assert all(not torch.equal(value, tables[name]) for name, value in model.ids.state_dict().items())
    assert not any("frozen" in name for name in model.state_dict())
