"""A retrieval run that is killed with SIGKILL and started again ends with the bits of one that is not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from retrieval_case import OPTIONS, config_of, planted_log
from retrieval_resume_case import kill_when, results

from ctr.retrieval.train import train_retrieval
from moonrec.runs import partial_folder

_TRAIN = """
import json, sys, torch
from ctr.retrieval.train import RetrievalConfig, train_retrieval
torch.set_num_threads(1)
train_retrieval(RetrievalConfig(**json.loads(sys.argv[1])))
"""
# Two seeds, a checkpoint wherever there can be one; the second seed goes on long enough to be met in it.
MANY = {"seeds": 2, "epochs": 3, "batch_size": 32, "checkpoint_minutes": 0.0}


def train_command(options: dict[str, Any]) -> list[str]:
    return [sys.executable, "-c", _TRAIN, json.dumps(options)]


def test_a_run_killed_in_both_seeds_ends_with_the_same_bits(tmp_path: Path) -> None:
    inputs = planted_log(users=60).save(tmp_path / "log")
    train_retrieval(config_of(inputs, tmp_path / "whole", **MANY | {"checkpoint_minutes": 60.0}))
    killed = {**OPTIONS, **inputs, **MANY, "out": str(tmp_path / "killed")}
    # In the first seed; then in the second one, when the first one's model and index are there.
    command, out = train_command(killed), killed["out"]
    kill_when(command, out, lambda state: bool(state["current"]) and state["current"]["loop"]["step"] > 2)
    kill_when(command, out, lambda state: bool(state["current"]) and len(state["finished"]) == 1)
    train_retrieval(config_of(inputs, out, **MANY))
    assert json.loads((tmp_path / "killed" / "provenance.json").read_text())["resumed"] is True
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not partial_folder(out).exists()
