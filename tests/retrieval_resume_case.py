"""Retrieval runs that are killed with SIGKILL, under torchrun or not, and what a run leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moonrec.runs import partial_folder

ROOT = Path(__file__).resolve().parent.parent
_TIMES = ("seconds", "samples_per_second", "index")


def torchrun_command(options: Mapping[str, Any]) -> list[str]:
    """`train-retrieval` with these options in two processes, by the command line, as a person would."""
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launcher, "-m", "moonrec.cli", "train-retrieval", *flags]


def torchrun_environment() -> dict[str, str]:
    """What such a command runs in: gloo, and one thread for each process."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def kill_when(
    command: Sequence[str],
    out: Path | str,
    there: Callable[[dict[str, Any]], bool],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Start a run in processes of its own and end them all, with SIGKILL, once its checkpoint is `there`."""
    child = subprocess.Popen(command, env=environment)
    state, deadline = partial_folder(out) / "checkpoint" / "state.json", time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if state.exists() and there(json.loads(state.read_text())):
            break
        time.sleep(0.005)
    # torchrun's processes outlive a launcher that is killed: each is the leader of a session of its own.
    for process in [child.pid, *_started_by(child.pid)]:
        os.kill(process, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not Path(out).exists()


def results(run: Path) -> dict[str, Any]:
    """Everything that a run leaves behind but for times."""
    kept = [run / "index" / "vectors.arrow", *(run / "model").iterdir()]
    return {
        "metrics": _timeless(json.loads((run / "metrics.json").read_text())),
        "history": [_timeless(json.loads(line)) for line in (run / "history.jsonl").read_text().splitlines()],
        "bytes": {path.name: path.read_bytes() for path in kept},
        "files": sorted(str(path.relative_to(run)) for path in run.rglob("*")),
    }


def _started_by(process: int) -> list[int]:
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return [int(one) for thread in threads for one in thread.read_text().split()]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items() if name not in _TIMES}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value
