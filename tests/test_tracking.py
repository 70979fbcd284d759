"""Curves for TensorBoard: what the log says, and nothing else, read back by TensorBoard itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from moonrec.runs import open_run
from moonrec.tracking import FOLDER, EventFiles, scalars

ROOT = Path(__file__).resolve().parent.parent
KILLED = """
    import os, signal, sys
    from moonrec.runs import open_run
    with open_run(sys.argv[1], "posttrain", {}, {}, seed=0) as run:
        for epoch in range(4):
            run.log(round="round 1", epoch=epoch, loss=1.0 - epoch / 4)
        run.checkpoint_dir.mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve of the files directly in a folder: (step, value) in the order in which they were told."""
    accumulator = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def times(folder: Path) -> list[float]:
    return [event.wall_time for event in EventAccumulator(str(folder)).Reload().Scalars("round 1/loss")]


def killed_run(out: Path) -> Path:
    """What a process leaves that is killed after four lines; the folder of its event files."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(out)]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    return Path(f"{out}.partial") / FOLDER


def test_rounds_are_curves_of_their_own_over_epochs(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", "posttrain", {}, {}, seed=0) as run:
        run.log(round="round 1", epoch=0, loss=None, **{"searches_recall@10": 0.25})
        run.log(round="round 1", epoch=1, loss=2.5, curve=[3.0, 2.0], **{"searches_recall@10": 0.5})
        run.log(round="round 2", epoch=1, loss=1.5)
    assert curves(tmp_path / "run" / FOLDER) == {
        "round 1/searches_recall@10": [(0, 0.25), (1, 0.5)],
        "round 1/loss": [(1, 2.5)],
        "round 2/loss": [(1, 1.5)],
    }


def test_seeds_are_runs_of_one_plot_over_steps(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", "train-ctr", {}, {}, seed=0) as run:
        for seed in (3, 4):
            run.log(seed=seed, stage="click", step=20, epoch=0, loss=0.6 + seed)
            run.log(seed=seed, stage="click", step=40, epoch=0, loss=0.5 + seed)
    for seed in (3, 4):
        found = curves(tmp_path / "run" / FOLDER / f"seed-{seed}")
        assert found == {"click/loss": [(20, 0.6 + seed), (40, 0.5 + seed)]}


def test_only_numbers_become_curves_under_the_names_that_hold_them() -> None:
    line = {
        "round": "joint", "epoch": 2, "loss": 0, "weights": {"text": 0.5, "image": {"share": 0.25}},
        "note": "text", "whole": True, "none": None, "curve": [1.0], "nothing": {},
    }  # fmt: skip
    expected = {"joint/loss": 0.0, "joint/weights/text": 0.5, "joint/weights/image/share": 0.25}
    assert scalars(line) == expected


def test_a_line_without_a_place_on_the_axis_is_left_out(tmp_path: Path) -> None:
    events = EventFiles(tmp_path)
    events.append({"loss": 1.0})
    events.append({"epoch": "last", "loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_killed_run_leaves_curves_that_go_on_where_it_is_resumed(tmp_path: Path) -> None:
    folder = killed_run(tmp_path / "run")
    assert curves(folder) == {"round 1/loss": [(0, 1.0), (1, 0.75), (2, 0.5), (3, 0.25)]}
    told = times(folder)
    with open_run(tmp_path / "run", "posttrain", {}, {}, seed=0) as run:
        assert run.resumed
        run.rewind_history(2)
        run.log(round="round 1", epoch=2, loss=0.125)
    assert curves(tmp_path / "run" / FOLDER) == {"round 1/loss": [(0, 1.0), (1, 0.75), (2, 0.125)]}
    again = times(tmp_path / "run" / FOLDER)
    assert again[:2] == told[:2]
    assert again[2] > told[3]


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_a_record_that_was_cut_off_is_written_again_from_the_log(tmp_path: Path, cut: int) -> None:
    (file,) = killed_run(tmp_path / "run").iterdir()
    os.truncate(file, max(0, file.stat().st_size - cut))
    with open_run(tmp_path / "run", "posttrain", {}, {}, seed=0) as run:
        run.log(round="round 1", epoch=4, loss=0.0)
    expected = [(epoch, 1.0 - epoch / 4) for epoch in range(5)]
    assert curves(tmp_path / "run" / FOLDER) == {"round 1/loss": expected}


def test_file_names_are_the_same_in_every_run_and_tell_no_machine(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        with open_run(tmp_path / name, "posttrain", {}, {}, seed=0) as run:
            run.log(epoch=1, loss=0.5)
        found.append([file.name for file in (tmp_path / name / FOLDER).iterdir()])
    assert found[0] == found[1]
    assert os.uname().nodename not in found[0][0]


@pytest.mark.parametrize("state", ["missing", "broken"])
def test_without_a_working_tensorboard_a_run_is_as_it_was(tmp_path: Path, state: str) -> None:
    if state == "broken":
        (tmp_path / "tensorboard").mkdir()
        (tmp_path / "tensorboard" / "__init__.py").write_text("raise TypeError('another protobuf')")
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        if {state == "missing"}:
            sys.modules["tensorboard"] = None
        from moonrec.runs import open_run
        with open_run("run", "posttrain", {{}}, {{}}, seed=0) as run:
            run.log(epoch=1, loss=0.5)
            run.log(epoch=2, loss=0.25)
            run.rewind_history(1)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml", "history.jsonl", "provenance.json"
    }  # fmt: skip


def test_a_command_that_logs_nothing_does_not_load_tensorboard(tmp_path: Path) -> None:
    script = """
        import sys
        from moonrec.runs import open_run
        with open_run(sys.argv[1], "evaluate", {}, {}, seed=0) as run:
            run.save_metrics({})
        assert "tensorboard" not in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "run")]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
