"""The engine for several processes or GPUs: TorchRec shards the tables, DDP averages the dense parts.

Started under `torchrun`. The model is made with its tables on the `meta` device, row-wise Adagrad is fused
into their backward pass, TorchRec's planner says which rank holds which rows, and `DistributedModelParallel`
does the rest: gloo on CPU, nccl and `TrainPipelineSparseDist` on GPU. The arithmetic is that of the engine
for one process; only the order of sums differs, and on GPU the linear layers train in bf16.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import ModuleSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingType
from torchrec.modules.embedding_configs import BaseEmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from ctr.data.batch import Batch
from ctr.engines.adam_state import adam_tensors, restore_adam
from ctr.engines.engine import BuildSlice
from ctr.engines.ranks import Ranks
from ctr.engines.rowwise_adagrad import EPSILON
from ctr.layers.id_embeddings import fill_initial_rows
from ctr.model import CtrModel, StepOutput, TrainingTask

# TorchRec calls these itself; nobody who runs a command can act on them.
logging.getLogger("torchrec.distributed.planner").setLevel(logging.ERROR)
for _message in ("`broadcast_buffers` is", "Please use DTensor instead", "HeuristicalStorageReservation is"):
    warnings.filterwarnings("ignore", message=_message, category=FutureWarning)


# Where a model keeps its tables: fused optimizers update them.
_TABLES = ("model.ids.", "model.context.")


class Shardable(Protocol):
    """What is asked of a model: its trained tables are `ids` and `context`, and nothing else is."""

    ids: EmbeddingCollection
    context: EmbeddingBagCollection | None

    def tables(self) -> dict[str, nn.Parameter]:
        """The weights of the unsharded tables by name."""

    def modules(self) -> Iterator[nn.Module]:
        """As of `torch.nn.Module`."""


class Distributed:
    """Trains and scores a model together with the other ranks; every method is called by all of them.

    Args:
        model: made with `table_device="meta"`, the same on all ranks.
        learning_rate: of the dense parts (Adam).
        sparse_learning_rate: of the tables (row-wise Adagrad).
        seed: seed of the tables' initial values.
        ranks: the processes.
        bf16: train the linear layers in bf16 (scores are always float32). None means on GPU.
        task: the model with its loss; None means that of a click model.
    """

    local = False
    # None means never; the pipeline takes whole batches.

    def __init__(
        self,
        model: Shardable,
        learning_rate: float,
        sparse_learning_rate: float,
        seed: int,
        ranks: Ranks,
        bf16: bool | None = None,
        task: nn.Module | None = None,
    ) -> None:
        self.ranks = ranks
        sparse = {"lr": sparse_learning_rate, "eps": EPSILON}
        apply_optimizer_in_backward(RowWiseAdagrad, model.tables().values(), sparse)
        if bf16 if bf16 is not None else ranks.device.type == "cuda":
            _train_in_bf16(model, ranks.device.type)
        for table in _table_configs(model):
            # TorchRec would fill each shard as if it were the whole table.
            table.init_fn = _leave_unset
        if task is None:
            assert isinstance(model, CtrModel)
            task = TrainingTask(model)
        self._parallel = _shard(task, list(model.tables()), ranks.device)
        self._fill_shards(seed)
        self._dense = {
            name: parameter
            for name, parameter in self._parallel.named_parameters()
            if parameter.requires_grad and not name.startswith(_TABLES)
        }
        self._adam = torch.optim.Adam(self._dense.values(), lr=learning_rate, fused=True)
        # Copies and sends the next batches' ids while this one computes (on CPU there is nothing to overlap).
        self._pipeline = TrainPipelineSparseDist(self._parallel, self._adam, ranks.device)

    def slice_rows(self, rows: int) -> int:
        """All of them: a rank's part of a batch is one step of the pipeline."""
        return rows

    def steps(self, batches: Iterable[Iterable[BuildSlice]]) -> Iterator[StepOutput]:
        """Update with one batch after the other; yields this rank's loss, logits and labels of each.

        The loss is this rank's share times the number of ranks, so that the mean over ranks is the batch's.
        """
        waiting = (build() for slices in batches for build in slices)
        self._parallel.train()
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
        _, (_, logit_B, _) = self._parallel(batch.to(self.ranks.device))
        return logit_B.cpu()

    def weights(self) -> dict[str, Tensor]:
        """This rank's shards of the tables, and the dense parts."""
        return self._local(self._parallel.state_dict())

    @torch.no_grad()
    def restore_weights(self, tensors: dict[str, Tensor]) -> None:
        """Put `weights` back."""
        for name, value in self.weights().items():
            value.copy_(tensors[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        """Row-wise Adagrad's state of this rank's shards, and Adam's."""
        return self._adagrad_state() | adam_tensors(self._adam, self._dense)

    @torch.no_grad()
    def restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Put `optimizer_state` back."""
        restore_adam(self._adam, self._dense, tensors)
        for name, value in self._adagrad_state().items():
            value.copy_(tensors[name])

    def state_dict(self) -> dict[str, Tensor]:
        """All weights as plain CPU tensors, named as in the plain model, on rank 0; elsewhere empty."""
        state: dict[str, Tensor] = {}
        for name, value in self._parallel.state_dict().items():
            whole = self._unshard(value) if isinstance(value, ShardedTensor) else value.detach().cpu()
            if whole is not None:
                state[name.removeprefix("model.")] = whole
        return state if self.ranks.rank == 0 else {}

    def _adagrad_state(self) -> dict[str, Tensor]:
        states = self._parallel.fused_optimizer.state_dict()["state"]
        named = {f"adagrad.{kind}": value for state in states.values() for kind, value in state.items()}
        return self._local(named)

    def _local(self, values: dict[str, Tensor | ShardedTensor]) -> dict[str, Tensor]:
        """This rank's parts of the values, in place: writing to them writes to the model."""
        local = {}
        for name, value in values.items():
            if isinstance(value, ShardedTensor):
                for shard in value.local_shards():
                    local[f"{name}:{shard.metadata.shard_offsets[0]}"] = shard.tensor.detach()
            else:
                local[name] = value.detach()
        return local

    def _fill_shards(self, seed: int) -> None:
        for name, value in self._parallel.state_dict().items():
            if isinstance(value, ShardedTensor):
                for shard in value.local_shards():
                    first_row = shard.metadata.shard_offsets[0]
                    fill_initial_rows(shard.tensor, name.split(".")[-2], seed, first_row)

    def _unshard(self, value: ShardedTensor) -> Tensor | None:
        first = self.ranks.rank == 0
        whole = torch.empty(value.size(), device=self.ranks.device) if first else None
        value.gather(dst=0, out=whole)
        return whole.cpu() if whole is not None else None


def _table_configs(model: Shardable) -> list[BaseEmbeddingConfig]:
    bags = model.context.embedding_bag_configs() if model.context is not None else []
    return [*model.ids.embedding_configs(), *bags]


def _leave_unset(weight: Tensor) -> Tensor:
    return weight


def _train_in_bf16(model: Shardable, device_type: str) -> None:
    """Let the linear layers multiply in bf16 while they are in training mode; what they hand on is float32.

    The matrix products are what bf16 speeds up. Sums over histories, similarities and the logit keep their
    precision: a logit in bf16 has three digits, and an AUC over such logits is one over ties.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer.out_features > 1:
            layer.forward = partial(_linear_in_bf16, layer, layer.forward, device_type)  # type: ignore[method-assign]


def _linear_in_bf16(
    layer: nn.Linear, plain: Callable[[Tensor], Tensor], device_type: str, value: Tensor
) -> Tensor:
    if not layer.training:
        return plain(value)
    with torch.autocast(device_type, dtype=torch.bfloat16):
        return plain(value).float()


def _shard(task: nn.Module, table_names: list[str], device: torch.device) -> DistributedModelParallel:
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
    sharders: list[ModuleSharder] = [EmbeddingCollectionSharder(), EmbeddingBagCollectionSharder()]
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
