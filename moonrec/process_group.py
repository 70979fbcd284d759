"""The end of a `torchrun` job: its processes leave each other before their interpreters end."""

from __future__ import annotations

import sys
import time

# Between a collective's end and its thread's last look at the interpreter; measured far below it. Ours.
_LAG_SECONDS = 0.2


def leave_process_group() -> None:
    """Leave the process group that this process is in, if it is in one; all processes call it.

    gloo's threads free the tensors of a finished collective a moment after it, and need the interpreter to do
    so. One that gets there while the interpreter ends aborts its process, after all work was done: in about
    one job of seven on two busy cores, with PyTorch 2.13. So nobody ends while a thread has something in
    hand: after a barrier, which leaves nothing to free, the threads are given the time to let go. Scripts
    that call moonrec under `torchrun` do well to end with this, too.
    """
    if "torch" not in sys.modules:
        return
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return
    if dist.get_backend() == "gloo" and dist.get_world_size() > 1:
        dist.barrier()
        time.sleep(_LAG_SECONDS)
    dist.destroy_process_group()
