"""An export in a process of its own, with parts of a few products: `PART_ROWS OPTIONS.json [KILL_AFTER]`.

Prints what the export returned as JSON. With KILL_AFTER it is killed when it has written so many parts; by
`torchrun`, every process is one of these.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from encoders import export as module
from encoders.export import ExportConfig, export
from encoders.export_parts import Part, PartStore
from moonrec.process_group import leave_process_group


class DyingStore(PartStore):
    """Kills its process, as nothing else can be killed at so exact a moment, after its n-th part."""

    left = 0

    def write(self, number: int, part: Part) -> None:
        super().write(number, part)
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def main(part_rows: str, options: str, kill_after: str = "") -> None:
    torch.set_num_threads(1)
    module.PART_ROWS = int(part_rows)
    if kill_after:
        DyingStore.left = int(kill_after)
        module.PartStore = DyingStore  # type: ignore[misc]
    results = export(ExportConfig(**json.loads(Path(options).read_text())))
    if results:
        print(json.dumps(results))
    leave_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
