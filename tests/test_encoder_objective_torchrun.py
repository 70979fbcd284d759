"""Two processes against one with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import objective_worker
import pytest
import torch
from objective_worker import CASES, joint_step, shares, train_step
from torch import Tensor

EVERYTHING = slice(None)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    out = tmp_path_factory.mktemp("two") / "results.pt"
    worker = Path(objective_worker.__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(worker.parent.parent), str(worker.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    subprocess.run([*command, str(worker), str(out)], check=True, timeout=120, env=environment)
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.spatial])
def test_gathered_negatives_make_two_processes_one_with_the_whole_batch(
    name: str, of_two: dict[str, dict[str, Tensor]]
) -> None:
    one = train_step(CASES[name], EVERYTHING, EVERYTHING)
    assert float(one["balance"]) > 0
    torch.testing.assert_close(of_two[name], one, rtol=0, atol=1e-7)
    gradients = {key: value for key, value in one.items() if key.startswith("gradient")}
    torch.testing.assert_close({key: of_two[name][key] for key in gradients}, gradients, rtol=0, atol=1e-10)


def test_the_joint_loss_of_two_processes_is_that_of_one_with_the_whole_batch(
    of_two: dict[str, dict[str, Tensor]],
) -> None:
    torch.testing.assert_close(of_two["joint"], joint_step(None), rtol=0, atol=1e-7)


def test_local_negatives_are_those_of_each_process_alone(of_two: dict[str, dict[str, Tensor]]) -> None:
    case, together = CASES["local"], of_two["local"]
    alone = [train_step(case, *shares(case, rank)) for rank in (0, 1)]
    mean = {key: (alone[0][key] + alone[1][key]) / 2 for key in together if not key.startswith("queue")}
    torch.testing.assert_close({key: together[key] for key in mean}, mean, rtol=0, atol=1e-10)
    whole = train_step(case, EVERYTHING, EVERYTHING)
    assert abs(float(together["loss"] - whole["loss"])) > 0.01
    # The queue serves all processes all the same: a checkpoint holds one.
    assert torch.equal(together["queue.products"], whole["queue.products"])
