"""The processes of a run: one, or all ranks of a `torchrun` launch.

Training, scoring and checkpoints ask their `Ranks` who they are and what the others have; with one process
every answer is immediate.

Legend: R rows of a rank.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from moonrec.atomic import storage_errors
from moonrec.errors import UserError
from moonrec.process_group import leave_process_group

# The others wait while the first process of a node prepares the data. A rank that dies is noticed by its
# closed connections, and by torchrun, not by this.
_PATIENCE = timedelta(days=1)


class Ranks:
    """One process by itself.

    Attributes:
        rank, size: which process this is, of how many.
        local_rank, node: which of its machine, and which machine.
        device: what this process computes on.
    """

    rank, size, local_rank, node = 0, 1, 0, 0
    device = torch.device("cpu")

    def gather(self, value_R: Tensor) -> list[Tensor]:
        """Every rank's tensor (all of one shape), on the CPU of rank 0; an empty list elsewhere."""
        return [value_R.cpu()]

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        return value

    def from_all(self, value: Any) -> list[Any]:
        """Every rank's value, on all ranks."""
        return [value]

    def wait(self) -> None:
        """Return when all ranks are here."""


class ProcessGroup(Ranks):
    """The ranks of the process group that was joined.

    Args:
        device: what this rank computes on.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.node = int(os.environ.get("GROUP_RANK", "0"))
        self.device = device

    def gather(self, value_R: Tensor) -> list[Tensor]:
        """Every rank's tensor (all of one shape), on the CPU of rank 0; an empty list elsewhere."""
        value_R = value_R.to(self.device)
        parts = [torch.empty_like(value_R) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(value_R, parts)
        return [part.cpu() for part in parts or []]

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def from_all(self, value: Any) -> list[Any]:
        """Every rank's value, on all ranks."""
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return when all ranks are here."""
        dist.barrier()


@contextmanager
def launched_ranks() -> Iterator[Ranks]:
    """Join the launch's process group and leave it at the end; without `torchrun` and GPU it is this process.

    A group that was joined before is used and stays: several runs in one launch have to share it, since its
    processes cannot meet a second time.
    """
    by_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not (by_torchrun or torch.cuda.is_available()):
        yield Ranks()
        return
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield ProcessGroup(device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if by_torchrun:
        dist.init_process_group(backend, timeout=_PATIENCE)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield ProcessGroup(device)
    except BaseException:
        # The others may be anywhere: nobody waits for them.
        dist.destroy_process_group()
        raise
    leave_process_group()


@contextmanager
def together(ranks: Ranks, place: Path | None = None) -> Iterator[None]:
    """Run a block on all ranks; a UserError of any of them ends all of them, told once.

    Args:
        ranks: the processes.
        place: an output that the block writes; a full or read-only disk there is such a mistake, too.

    Raises:
        UserError: on the (first) rank that raised it.
        SystemExit: with exit code 2, on the others.
    """
    mistake = None
    try:
        if place is None:
            yield
        else:
            with storage_errors(place):
                yield
    except UserError as error:
        mistake = error
    found = [rank for rank, wrong in enumerate(ranks.from_all(mistake is not None)) if wrong]
    if found and found[0] == ranks.rank and mistake is not None:
        raise mistake
    if found:
        raise SystemExit(2)
