"""Same seed, same machine, same numbers to the last digit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ctr.engines.ranks import ProcessGroup, Ranks


@contextmanager
def deterministic(ranks: Ranks) -> Iterator[None]:
    """Let PyTorch take only kernels that repeat their results; not for what TorchRec shards."""
    if isinstance(ranks, ProcessGroup):
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    # That option would also write every new tensor twice, to make reads of unset memory repeatable. We read
    # none.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
