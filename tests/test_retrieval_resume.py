"""A retrieval run that is killed with SIGKILL and started again ends with the bits of one that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrieval_case import OPTIONS, config_of, planted_log

from ctr.retrieval.train import train_retrieval
from moonrec.runs import partial_folder

_TIMES = ("seconds", "samples_per_second", "index")
_TRAIN = """
import json, sys, torch
from ctr.retrieval.train import RetrievalConfig, train_retrieval
torch.set_num_threads(1)
train_retrieval(RetrievalConfig(**json.loads(sys.argv[1])))
"""
# Two seeds, a checkpoint wherever there can be one; the second seed goes on long enough to be met in it.
MANY = {"seeds": 2, "epochs": 3, "batch_size": 32, "checkpoint_minutes": 0.0}


def kill_when(options: dict[str, Any], there: Callable[[dict[str, Any]], bool]) -> None:
    """Start a run in a process of its own and end it, with SIGKILL, once its checkpoint is `there`."""
    child = subprocess.Popen([sys.executable, "-c", _TRAIN, json.dumps(options)])
    state, deadline = partial_folder(options["out"]) / "checkpoint" / "state.json", time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if state.exists() and there(json.loads(state.read_text())):
            break
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not Path(options["out"]).exists()


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(inner) for name, inner in value.items() if name not in _TIMES}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def results(run: Path) -> dict[str, Any]:
    """Everything that a run leaves behind but for times."""
    kept = [run / "index" / "vectors.arrow", *(run / "model").iterdir()]
    return {
        "metrics": timeless(json.loads((run / "metrics.json").read_text())),
        "history": [timeless(json.loads(line)) for line in (run / "history.jsonl").read_text().splitlines()],
        "bytes": {path.name: path.read_bytes() for path in kept},
        "files": sorted(str(path.relative_to(run)) for path in run.rglob("*")),
    }


def test_a_run_killed_in_both_seeds_ends_with_the_same_bits(tmp_path: Path) -> None:
    inputs = planted_log(users=60).save(tmp_path / "log")
    train_retrieval(config_of(inputs, tmp_path / "whole", **MANY | {"checkpoint_minutes": 60.0}))
    killed = {**OPTIONS, **inputs, **MANY, "out": str(tmp_path / "killed")}
    # In the first seed; then in the second one, when the first one's model and index are there.
    kill_when(killed, lambda state: bool(state["current"]) and state["current"]["loop"]["step"] > 2)
    kill_when(killed, lambda state: bool(state["current"]) and len(state["finished"]) == 1)
    train_retrieval(config_of(inputs, killed["out"], **MANY))
    assert json.loads((tmp_path / "killed" / "provenance.json").read_text())["resumed"] is True
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not partial_folder(killed["out"]).exists()
