"""The two engines train the same towers, alike each time, and neither moves a frozen vector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from retrieval_case import config_of, data_of, planted_log
from safetensors.torch import load_file

from ctr.data.row_order import RowOrder
from ctr.data.unknown_ids import UnknownIds
from ctr.engines.distributed import Distributed
from ctr.engines.ranks import ProcessGroup
from ctr.retrieval.batch import training_batch
from ctr.retrieval.data import RetrievalData
from ctr.retrieval.engine import BuildBatch, WholeBatches
from ctr.retrieval.loop import RetrievalEngine
from ctr.retrieval.model import RetrievalTask, TwoTowers
from ctr.retrieval.negatives import Negatives
from ctr.retrieval.saving import RetrievalSettings, build_model
from ctr.retrieval.start import fit_start
from ctr.retrieval.train import train_retrieval

Trained = tuple[list[float], dict[str, torch.Tensor]]
STEPS, SIZE, SEED = 12, 100, 3
RATES = (1e-3, 0.05)
# Of both tables, and of both kinds.
CONTEXT = {"categorical": ("device", "town"), "numeric": ("spent",)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("log")
    return planted_log(users=100).save(folder) | {"users": str(folder / "users.parquet")}


@pytest.fixture(scope="module")
def data(inputs: dict[str, Any]) -> RetrievalData:
    return data_of(inputs, **CONTEXT)


def fitted(data: RetrievalData, device: str = "cpu") -> TwoTowers:
    model = build_model(RetrievalSettings(8, 16, 20, True, SEED, None), data.vocabulary, data.frozen, device)
    fit_start(model, data, SEED)
    return model


def batches(data: RetrievalData, local: bool) -> Iterator[list[BuildBatch]]:
    negatives = Negatives.of(data.train.item_R, data.taken_C, 0.5, SEED)
    order = RowOrder(len(data.train), epochs=9, batch_size=SIZE, seed=(SEED,))
    for step, rows_B in enumerate(order.batches(0, STEPS)):
        unknown = UnknownIds(0.1, SEED, step)
        build = partial(
            training_batch, data.train, rows_B, data.items, negatives, step=step, mask_history=True
        )
        yield [partial(build, local=local, unknown=unknown)]


def trained(engine: RetrievalEngine, data: RetrievalData) -> Trained:
    losses = [float(loss) for loss, _, _ in engine.steps(batches(data, engine.local))]
    return losses, {name: value.clone() for name, value in engine.state_dict().items()}


@pytest.fixture(scope="module")
def one(data: RetrievalData) -> Trained:
    return trained(WholeBatches(fitted(data), *RATES), data)


def test_torchrec_makes_the_same_steps(data: RetrievalData, one: Trained) -> None:
    assert data.frozen is not None
    before = data.frozen.vectors.clone()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model, ranks = fitted(data, "meta"), ProcessGroup(torch.device("cpu"))
        losses, weights = trained(Distributed(model, *RATES, SEED, ranks, task=RetrievalTask(model)), data)
    finally:
        dist.destroy_process_group()
    np.testing.assert_allclose(losses, one[0], atol=2e-5)
    assert weights.keys() == one[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(weights[name], value, atol=2e-5, rtol=1e-4, msg=name)
    assert torch.equal(data.frozen.vectors, before)


def test_the_loss_falls_and_every_part_learns(data: RetrievalData, one: Trained) -> None:
    losses, weights = one
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    before = fitted(data).state_dict()
    # What is told of the data is no weight: nothing of it moves.
    told = {name for name in before if name.endswith(("centre", "scale", "log_taken"))}
    still = {name for name, value in before.items() if torch.equal(value, weights[name])}
    assert still == told


def test_training_moves_no_bit_of_the_frozen_vectors(data: RetrievalData) -> None:
    assert data.frozen is not None
    before = data.frozen.vectors.clone()
    model = fitted(data)
    trained(WholeBatches(model, *RATES), data)
    assert torch.equal(data.frozen.vectors, before)
    assert model.towers.frozen is not None
    assert torch.equal(model.towers.frozen.vectors, before)
    assert not any("frozen" in name for name in model.state_dict())


def test_the_same_steps_again_give_the_same_bits(data: RetrievalData, one: Trained) -> None:
    losses, weights = trained(WholeBatches(fitted(data), *RATES), data)
    assert losses == one[0]
    for name, value in one[1].items():
        assert torch.equal(weights[name], value), name


def run_of(inputs: dict[str, Any], out: Path, **options: Any) -> dict[str, Any]:
    metrics = train_retrieval(config_of(inputs, out, epochs=2, **options))
    timeless = {name: value for name, value in metrics.items() if name not in ("train", "index")}
    return {
        "metrics": json.dumps(timeless),
        "weights": load_file(out / "model" / "weights.safetensors"),
        "items": (out / "index" / "vectors.arrow").read_bytes(),
    }


def test_a_seed_gives_the_same_run_again_and_another_gives_another(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    first = run_of(inputs, tmp_path / "a")
    again = run_of(inputs, tmp_path / "b")
    other = run_of(inputs, tmp_path / "c", seed=1)
    assert first["metrics"] == again["metrics"] != other["metrics"]
    assert first["items"] == again["items"] != other["items"]
    for name, value in first["weights"].items():
        assert torch.equal(value, again["weights"][name]), name
    assert not torch.equal(
        first["weights"]["ids.embeddings.item.weight"], other["weights"]["ids.embeddings.item.weight"]
    )
