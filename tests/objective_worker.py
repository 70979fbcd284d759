"""One training step of a toy encoder on a process's share of a batch: alone, or one of several processes.

Run by `torchrun` it writes, per case, what rank 0 ends with.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from objective_helpers import random_batch
from objective_toy import ToyBatch, ToyEncoder, pieces, toy_products
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from encoders.objective.config import JointConfig, ObjectiveConfig
from encoders.objective.encode_step import EncodeStep
from encoders.objective.gathering import average_gradients, sum_over_processes
from encoders.objective.gradient_cache import contrastive_step
from encoders.objective.joint_objective import JointBatch, JointObjective, Shown
from encoders.objective.negative_queue import NegativeQueue
from encoders.objective.objective import Objective
from moonrec.gathering import world_size
from moonrec.process_group import leave_process_group

PAIRS, HARD, QUEUE = 8, 5, 9


@dataclass(frozen=True)
class Case:
    """How a batch is worked on; `pair_cut` and `hard_cut` are where the first process's share ends."""

    loss: str
    spatial: bool
    pair_cut: int = PAIRS // 2
    hard_cut: int = 2
    chunk: int = 100
    balance_weight: float = 0.3


CASES = {
    "plain": Case("infonce", spatial=True),
    "circle in chunks": Case("circle", spatial=True, chunk=3),
    # The first process has three chunks, the second one; one has no hard negative.
    "uneven": Case("infonce", spatial=True, pair_cut=6, hard_cut=5, chunk=6),
    "local": Case("infonce", spatial=False, hard_cut=2, balance_weight=0.0),
}


def train_step(case: Case, pair_rows: slice, hard_rows: slice) -> dict[str, Tensor]:
    """Loss, gradients and queue after one step on some of the pairs and hard negatives."""
    batch = random_batch(PAIRS, HARD, QUEUE, seed=3)
    anchors, positives, hard = (
        ToyBatch(toy_products(count, seed).x_BTD[rows])
        for count, seed, rows in ((PAIRS, 1, pair_rows), (PAIRS, 2, pair_rows), (HARD, 3, hard_rows))
    )
    pair_labels = batch.pairs[torch.arange(PAIRS)[pair_rows]]
    hard_labels = batch.hard[torch.arange(HARD)[hard_rows]]
    start_PE = batch.positives_PE[pair_rows]
    sizes = [len(anchors), len(positives), len(hard)]
    queue = NegativeQueue(QUEUE, 8)
    queue.vectors_QE, queue.labels = batch.queue_QE, batch.queue
    config = ObjectiveConfig(case.loss, dims=(8, 4), spatial=case.spatial, circle_scale=16, keep_weight=0.5)
    objective = Objective(config).double()
    step: nn.Module = EncodeStep(ToyEncoder(dropout=0.0))  # type: ignore[arg-type]
    wrapped = DistributedDataParallel(step) if world_size() > 1 else step

    def loss_of(vectors_BE: Tensor) -> Tensor:
        anchors_PE, positives_PE, hard_HE = vectors_BE.split(sizes)
        return objective(anchors_PE, positives_PE, hard_HE, pair_labels, hard_labels, start_PE, queue)

    done = contrastive_step(
        wrapped,
        pieces(ToyBatch(torch.cat([side.x_BTD for side in (anchors, positives, hard)])), case.chunk),
        loss_of,
        device=torch.device("cpu"),
        balance_weight=case.balance_weight,
        no_sync=wrapped.no_sync if isinstance(wrapped, DistributedDataParallel) else nullcontext,
    )
    average_gradients(objective)
    _, positives_PE, hard_HE = done.vectors_BE.split(sizes)
    queue.push(positives_PE, pair_labels.positives)
    queue.push(hard_HE, hard_labels)
    result = {f"queue.{name}": value for name, value in queue.state_dict().items()}
    result["loss"] = sum_over_processes(done.loss) / world_size()
    result["balance"] = sum_over_processes(done.balance) / world_size()
    for name, parameter in [*step.named_parameters(), *objective.named_parameters()]:
        assert parameter.grad is not None, name
        result[f"gradient.{name}"] = parameter.grad
    return result


def joint_step(rank: int | None) -> dict[str, Tensor]:
    """As `train_step`, of the joint loss; the process's share, or the whole batch without a rank."""
    batch = random_batch(PAIRS, HARD, QUEUE, seed=3)
    asked = [[0, 1, 2, 3, 4, 5, 6, 7], [1, 5, 6], [2]]  # the second process has no query of the last kind
    cut, hard_cut = PAIRS // 2, 2
    mine, hard_mine = (
        (slice(None), slice(None)) if rank is None else shares(Case("", True, cut, hard_cut), rank)
    )
    pair_rows = list(range(PAIRS))[mine]
    rows = [[row for row in kind if row in pair_rows] for kind in asked]
    parts = [toy_products(PAIRS, 2).x_BTD[mine], toy_products(HARD, 3).x_BTD[hard_mine]]
    parts += [toy_products(PAIRS, 10 + kind).x_BTD[of_kind] for kind, of_kind in enumerate(rows)]
    queue = NegativeQueue(QUEUE, 8)
    queue.vectors_QE, queue.labels = batch.queue_QE, batch.queue
    torch.manual_seed(0)
    weights = JointConfig(intra_weight=0, sparsity_weight=0.1)
    config = ObjectiveConfig("infonce", dims=(8, 4), keep_weight=0.5)
    objective = JointObjective(config, weights, experts=3).double()
    step: nn.Module = EncodeStep(ToyEncoder(dropout=0.0), with_gates=True)  # type: ignore[arg-type]
    wrapped = DistributedDataParallel(step) if world_size() > 1 else step

    def loss_of(outputs_BF: Tensor) -> Tensor:
        positives, hard, *queries = outputs_BF.split([len(part) for part in parts])
        shown = [
            Shown(found[:, :8], torch.tensor(of_kind, dtype=torch.int64) - pair_rows[0], found[:, 8:])
            for found, of_kind in zip(queries, rows, strict=True)
        ]
        local = JointBatch(
            shown, positives[:, :8], hard[:, :8], batch.pairs[torch.tensor(pair_rows)],
            batch.hard[torch.arange(HARD)[hard_mine]], start_PE=batch.positives_PE[mine],
        )  # fmt: skip
        return objective(local, queue, margin=0.5).total

    done = contrastive_step(
        wrapped,
        [[ToyBatch(part)] for part in parts if len(part)],
        loss_of,
        device=torch.device("cpu"),
        balance_weight=0.3,
        no_sync=wrapped.no_sync if isinstance(wrapped, DistributedDataParallel) else nullcontext,
    )
    average_gradients(objective)
    result = {"loss": sum_over_processes(done.loss) / world_size()}
    for name, parameter in [*step.named_parameters(), *objective.named_parameters()]:
        assert parameter.grad is not None, name
        result[f"gradient.{name}"] = parameter.grad
    return result


def shares(case: Case, rank: int) -> tuple[slice, slice]:
    """Rows of the pairs and of the hard negatives of one of two processes."""
    if rank:
        return slice(case.pair_cut, None), slice(case.hard_cut, None)
    return slice(0, case.pair_cut), slice(0, case.hard_cut)


def main(out: str) -> None:
    """Work on this process's share of every case."""
    dist.init_process_group("gloo")
    results = {name: train_step(case, *shares(case, dist.get_rank())) for name, case in CASES.items()}
    results["joint"] = joint_step(dist.get_rank())
    if dist.get_rank() == 0:
        torch.save(results, out)
    leave_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
