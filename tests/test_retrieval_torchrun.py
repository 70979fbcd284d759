"""Two gloo processes train the towers that one would: the candidates of both are negatives for both."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from retrieval_case import OPTIONS, config_of, planted_log
from retrieval_resume_case import torchrun_command, torchrun_environment
from safetensors.torch import load_file

from ctr.retrieval.train import train_retrieval

# An epoch of as many steps as there are lines of the log for it: the first line tells of the first step. The
# sizes do not divide by two.
SMALL = {"epochs": 3, "batch_size": 401, "uniform_share": 0.4, "seed": 5}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return planted_log(users=110).save(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def one(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    train_retrieval(config_of(inputs, out, **SMALL))
    return out


@pytest.fixture(scope="module")
def two(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "two"
    command = torchrun_command({**OPTIONS, **inputs, **SMALL, "out": out})
    subprocess.run(command, check=True, timeout=240, env=torchrun_environment())
    return out


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def metrics(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def test_the_first_step_has_the_loss_of_one_process_with_the_whole_batch(one: Path, two: Path) -> None:
    """Candidates of one process alone would be half as many."""
    lines = [history(run)[0] for run in (one, two)]
    assert [line["step"] for line in lines] == [1, 1]
    assert lines[1]["loss"] == pytest.approx(lines[0]["loss"], abs=1e-5)
    assert lines[1]["first"] == pytest.approx(lines[0]["first"], abs=1e-6)


def test_the_steps_after_it_have_nearly_the_same_losses(one: Path, two: Path) -> None:
    lines = [history(run) for run in (one, two)]
    assert [line["samples"] for line in lines[0]] == [line["samples"] for line in lines[1]]
    for line, other in zip(*lines, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], abs=1e-3)


def test_two_processes_end_with_the_same_towers(one: Path, two: Path) -> None:
    weights = [load_file(run / "model" / "weights.safetensors") for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        # Row-wise Adagrad makes whole steps of gradients that are next to nothing but rounding.
        assert (weights[1][name] - value).norm() <= 0.02 * value.norm(), name


def test_two_processes_find_what_one_finds(one: Path, two: Path) -> None:
    found = [metrics(run) for run in (one, two)]
    for name in ("recall@10", "recall@100", "ndcg@10"):
        assert found[1]["test"][name] == pytest.approx(found[0]["test"][name], abs=0.02)
    assert found[1]["new_items"]["test"]["recall@10"] == pytest.approx(
        found[0]["new_items"]["test"]["recall@10"], abs=0.03
    )
    validation = [one["train"]["validation"]["recall@100"] for one in found]
    assert validation[1] == pytest.approx(validation[0], abs=0.02)
    # What is not trained is the same to the last digit.
    for name in ("popularity", "item_knn", "content_mean", "split", "coverage"):
        assert found[0][name] == found[1][name]
