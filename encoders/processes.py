"""The processes of a `torchrun` job: which one this is, where it computes, waiting for the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import torch

# The fastest process may wait for the slowest as long as one of them computes.
_PATIENCE = timedelta(days=7)


class Processes:
    """All processes of this job; outside `torchrun` that is this one.

    Args:
        device: as the user named it; a GPU without a number becomes this process's own.

    Attributes:
        count: how many there are.
        is_main: whether this one does what is done once.
        device: where this one computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.count, self.is_main, self.device = 1, True, device
        self._wait: Callable[[], None] | None = None
        if "LOCAL_RANK" not in os.environ:
            return
        from accelerate import PartialState

        # Nothing but waiting goes over the wire, so gloo does on GPUs, too, where nccl would spin meanwhile.
        state = PartialState(cpu=device.type == "cpu", backend="gloo", timeout=_PATIENCE)
        self.count, self.is_main = state.num_processes, state.is_main_process
        self._wait = state.wait_for_everyone
        if str(device) == "cuda":
            self.device = state.device

    def wait(self) -> None:
        """Return when every process has come here."""
        if self._wait is not None:
            self._wait()
