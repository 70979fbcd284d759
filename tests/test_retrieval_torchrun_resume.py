"""Two gloo processes that are killed with SIGKILL and started again end with the bits of two that are not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from retrieval_case import OPTIONS, planted_log
from retrieval_resume_case import kill_when, results, torchrun_command, torchrun_environment

from moonrec.runs import partial_folder

# The rows do not divide by two; steps enough for the run not to end before it is killed.
SMALL = {"epochs": 3, "batch_size": 33, "seed": 5}


def train(options: dict[str, Any]) -> None:
    subprocess.run(torchrun_command(options), check=True, timeout=120, env=torchrun_environment())


def log_lines(run: Path) -> list[str]:
    return (run / "history.jsonl").read_text().splitlines()


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    return planted_log(users=60).save(tmp_path / "log")


def test_two_processes_killed_after_their_first_checkpoint_end_with_the_same_bits(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    whole = {**OPTIONS, **inputs, **SMALL, "out": tmp_path / "whole"}
    killed = {**whole, "out": tmp_path / "killed", "checkpoint_minutes": 0.0}
    train(whole)
    kill_when(
        torchrun_command(killed), killed["out"], lambda state: bool(state["current"]), torchrun_environment()
    )
    left = partial_folder(killed["out"])
    state = json.loads((left / "checkpoint" / "state.json").read_text())
    assert state["processes"] == 2
    kept, every = state["history"], len(log_lines(whole["out"]))
    assert 0 < kept < every
    before = log_lines(left)[:kept]
    train(killed)
    assert json.loads((killed["out"] / "provenance.json").read_text())["resumed"] is True
    # Speeds among them: a run that had started anew would have measured others.
    assert log_lines(killed["out"])[:kept] == before
    assert results(killed["out"]) == results(whole["out"])
    assert not partial_folder(killed["out"]).exists()
