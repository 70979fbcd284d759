"""The engine for several processes or GPUs: TorchRec shards the tables, DDP averages the dense parts.

Started under `torchrun`. The model is made with its tables on the `meta` device, row-wise Adagrad is fused
into their backward pass, TorchRec's planner says which rank holds which rows, and `DistributedModelParallel`
does the rest: gloo on CPU, nccl and `TrainPipelineSparseDist` on GPU. The arithmetic is that of the engine
for one process; only the order of sums differs.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import ModuleSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingType
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from ctr.batch import Batch
from ctr.id_embeddings import fill_initial_rows
from ctr.model import CtrModel, StepOutput, TrainingTask
from ctr.rowwise_adagrad import EPSILON

# TorchRec calls these itself; nobody who runs a command can act on them.
logging.getLogger("torchrec.distributed.planner").setLevel(logging.ERROR)
for _message in ("`broadcast_buffers` is", "Please use DTensor instead", "HeuristicalStorageReservation is"):
    warnings.filterwarnings("ignore", message=_message, category=FutureWarning)


def launched_by_torchrun() -> bool:
    """True when this process is one of a `torchrun` (or the like) launch."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the launch's process group (or one of this process alone), and leave it at the end.

    Yields:
        This rank's device.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if launched_by_torchrun():
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield device
    finally:
        dist.destroy_process_group()


class Distributed:
    """Trains and scores a model together with the other ranks; every method is called by all of them.

    Args:
        model: made with `table_device="meta"`, the same on all ranks.
        learning_rate: of the dense parts (Adam).
        sparse_learning_rate: of the tables (row-wise Adagrad).
        seed: seed of the tables' initial values.
        device: this rank's device.
    """

    def __init__(
        self,
        model: CtrModel,
        learning_rate: float,
        sparse_learning_rate: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._device = device
        table_names = [config.name for config in model.ids.embedding_configs()]
        apply_optimizer_in_backward(
            RowWiseAdagrad, model.ids.parameters(), {"lr": sparse_learning_rate, "eps": EPSILON}
        )
        self._parallel = _shard(TrainingTask(model), table_names, device)
        self._fill_shards(seed)
        dense = [
            parameter
            for name, parameter in self._parallel.named_parameters()
            if not name.endswith(tuple(f"{table}.weight" for table in table_names))
        ]
        self._dense = torch.optim.Adam(dense, lr=learning_rate, fused=True)
        # Copies and sends the next batches' ids while this one computes (on CPU there is nothing to overlap).
        self._pipeline = TrainPipelineSparseDist(self._parallel, self._dense, device)

    def steps(self, batches: Iterable[Batch]) -> Iterator[StepOutput]:
        """Update with one batch after the other; yields this rank's loss, logits and labels of each.

        The loss is this rank's share times the number of ranks, so that the mean over ranks is the batch's.
        """
        waiting = iter(batches)
        self._pipeline.attach(self._parallel)
        while True:
            try:
                output: StepOutput = self._pipeline.progress(waiting)
            except StopIteration:
                # Until the next training, look-ups work without the pipeline again.
                self._pipeline.detach()
                return
            yield output

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Logits (B,), on the CPU."""
        self._parallel.eval()
        _, (_, logit_B, _) = self._parallel(batch.to(self._device))
        self._parallel.train()
        return logit_B.cpu()

    def gather(self, value_R: Tensor) -> list[Tensor]:
        """Every rank's tensor (all of one shape) on rank 0; an empty list elsewhere."""
        value_R = value_R.to(self._device)
        parts = [torch.empty_like(value_R) for _ in range(self.world_size)] if self.rank == 0 else None
        dist.gather(value_R, parts)
        return [part.cpu() for part in parts or []]

    def state_dict(self) -> dict[str, Tensor]:
        """All weights as plain CPU tensors, named as in the plain model, on rank 0; elsewhere empty."""
        state: dict[str, Tensor] = {}
        for name, value in self._parallel.state_dict().items():
            whole = self._unshard(value) if isinstance(value, ShardedTensor) else value.detach().cpu()
            if whole is not None:
                state[name.removeprefix("model.")] = whole
        return state if self.rank == 0 else {}

    def _fill_shards(self, seed: int) -> None:
        for name, value in self._parallel.state_dict().items():
            if isinstance(value, ShardedTensor):
                for shard in value.local_shards():
                    first_row = shard.metadata.shard_offsets[0]
                    fill_initial_rows(shard.tensor, name.split(".")[-2], seed, first_row)

    def _unshard(self, value: ShardedTensor) -> Tensor | None:
        whole = torch.empty(value.size(), device=self._device) if self.rank == 0 else None
        value.gather(dst=0, out=whole)
        return whole.cpu() if whole is not None else None


def _shard(task: TrainingTask, table_names: list[str], device: torch.device) -> DistributedModelParallel:
    # Whole rows only: row-wise Adagrad has one state per row, and data-parallel copies would not shrink
    # with ranks.
    kinds = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
    constraints = {name: ParameterConstraints(sharding_types=kinds) for name in table_names}
    world_size = dist.get_world_size()
    topology = Topology(
        world_size=world_size,
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
        compute_device=device.type,
    )
    sharders: list[ModuleSharder] = [EmbeddingCollectionSharder()]
    # The planner prints its plan as a page of boxes; a user cannot act on it.
    planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints, stats=[])
    group = dist.GroupMember.WORLD
    assert group is not None
    plan = planner.collective_plan(task, sharders, group)
    logging.getLogger(__name__).debug("sharding plan: %s", plan)
    return DistributedModelParallel(
        task,
        device=device,
        plan=plan,
        sharders=sharders,
        # The frozen vectors are equal on all ranks by construction: DDP need not send them around.
        data_parallel_wrapper=DefaultDataParallelWrapper(
            params_to_ignore=[name for name, _ in task.named_buffers() if name.endswith("frozen.vectors")]
        ),
    )
