"""Run folders: complete or not at all, resumed only by the same command on the same inputs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from moonrec.errors import UserError
from moonrec.runs import Run, identity_of, open_run, refuse_foreign_folder

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {"items": "items.parquet", "out": "run", "epochs": 3, "mix": [1.0, 1.0], "cache": None}
INPUTS = {"items": "00ff"}
TRAIN_FOREVER = """
    import sys, time
    from moonrec.runs import open_run
    with open_run(sys.argv[1], "posttrain", {"epochs": 3}, {"items": "00ff"}, seed=7) as run:
        run.log(epoch=1, loss=0.5)
        if sys.argv[2] == "checkpoint":
            run.checkpoint_dir.mkdir()
            (run.checkpoint_dir / "state.pt").write_text("state")
        print("training", flush=True)
        time.sleep(600)
"""


def write_run(out: Path, auc: float | None = 0.7, seed: int = 7) -> None:
    with open_run(out, "posttrain", CONFIG, INPUTS, seed) as run:
        run.log(epoch=1, loss=0.5)
        run.log(epoch=2, loss=0.4)
        (run.model_dir / "config.json").write_text("{}")
        run.save_metrics({"test": {"auc": auc}})


def metrics(out: Path) -> dict[str, object]:
    return json.loads((out / "metrics.json").read_text())


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@contextmanager
def training(out: Path, *, checkpoint: bool = False) -> Iterator[None]:
    """A process in the midst of a run that is killed in the end."""
    arguments = [str(out), "checkpoint" if checkpoint else "none"]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAIN_FOREVER), *arguments],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"training\n"
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)


def open_again(out: Path, epochs: int = 3, items: str = "00ff", command: str = "posttrain") -> Run:
    with open_run(out, command, {"epochs": epochs}, {"items": items}, seed=7) as run:
        return run


def test_a_run_folder_holds_what_was_promised_and_nothing_else(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    out = tmp_path / "run"
    assert names(tmp_path) == ["run"]
    assert names(out) == [
        "config.yaml",
        "history.jsonl",
        "metrics.json",
        "model",
        "provenance.json",
        "tensorboard",
    ]
    assert yaml.safe_load((out / "config.yaml").read_text()) == CONFIG
    assert metrics(out) == {"test": {"auc": 0.7}}
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert lines == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4}]


def test_provenance_tells_what_decided_the_result(tmp_path: Path) -> None:
    write_run(tmp_path / "run", seed=11)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["command"] == "posttrain"
    assert provenance["seed"] == 11
    assert provenance["inputs"] == INPUTS
    assert provenance["resumed"] is False
    assert {"moonrec", "python", "torch", "torchrec", "pyarrow", "numpy"} <= set(provenance["versions"])
    assert provenance["started"] <= provenance["finished"]
    assert {"arguments", "git_commit", "machine"} <= set(provenance)
    assert {"cores", "architecture"} <= set(provenance["machine"])


def test_provenance_tells_nothing_about_the_person_or_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/somebody/bin/moonrec", "posttrain", "--items", "items.parquet"])
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-host")
    monkeypatch.setenv("HOME", "/home/somebody")
    write_run(tmp_path / "run")
    text = (tmp_path / "run" / "provenance.json").read_text()
    assert json.loads(text)["arguments"] == ["posttrain", "--items", "items.parquet"]
    for private in ("/home/somebody", "secret-host", str(tmp_path), str(ROOT), os.uname().nodename):
        assert f'"{private}' not in text


def test_a_new_run_replaces_the_whole_old_one(tmp_path: Path) -> None:
    write_run(tmp_path / "run", auc=0.6)
    (tmp_path / "run" / "report.html").write_text("old")
    write_run(tmp_path / "run", auc=None)
    assert metrics(tmp_path / "run") == {"test": {"auc": None}}
    assert not (tmp_path / "run" / "report.html").exists()
    assert names(tmp_path) == ["run"]


def test_an_empty_model_folder_is_left_out(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", "evaluate", CONFIG, INPUTS, 0) as run:
        run.save_metrics({})
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, UserError])
def test_a_failed_run_leaves_the_old_one_and_nothing_else(tmp_path: Path, kind: type[BaseException]) -> None:
    write_run(tmp_path / "run", auc=0.6)

    def fail() -> None:
        with open_run(tmp_path / "run", "posttrain", CONFIG, INPUTS, 7) as run:
            run.save_metrics({"test": {"auc": 0.9}})
            raise kind("stop")

    with pytest.raises(kind):
        fail()
    assert metrics(tmp_path / "run") == {"test": {"auc": 0.6}}
    assert names(tmp_path) == ["run"]


def test_metrics_and_history_refuse_nan(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", "posttrain", CONFIG, INPUTS, 7) as run:
        with pytest.raises(ValueError, match="JSON"):
            run.save_metrics({"auc": float("nan")})
        with pytest.raises(ValueError, match="JSON"):
            run.log(loss=float("inf"))
        run.save_metrics({"auc": None})
    assert metrics(tmp_path / "run") == {"auc": None}
    assert (tmp_path / "run" / "history.jsonl").read_text() == ""


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with training(out, checkpoint=True):
        pass
    assert not out.exists()
    with open_run(out, "posttrain", {"epochs": 3}, {"items": "00ff"}, seed=7) as run:
        assert run.resumed
        assert run.history == [{"epoch": 1, "loss": 0.5}]
        assert (run.checkpoint_dir / "state.pt").read_text() == "state"
        run.log(epoch=2, loss=0.4)
    assert [json.loads(line)["epoch"] for line in (out / "history.jsonl").open()] == [1, 2]
    assert json.loads((out / "provenance.json").read_text())["resumed"] is True
    assert names(out) == ["config.yaml", "history.jsonl", "provenance.json", "tensorboard"]
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize("other", [{"epochs": 4}, {"items": "11ff"}, {"command": "train-ctr"}])
def test_another_run_starts_anew_over_what_a_killed_one_left_and_says_so(
    tmp_path: Path, other: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with training(tmp_path / "run", checkpoint=True):
        pass
    run = open_again(tmp_path / "run", **other)  # type: ignore[arg-type]
    assert not run.resumed
    assert run.history == []
    assert "run.partial: the checkpoint there is of other options, inputs" in capsys.readouterr().err


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path: Path) -> None:
    with training(tmp_path / "run"):
        pass
    assert not open_again(tmp_path / "run").resumed


def test_a_failed_run_with_a_checkpoint_can_go_on(tmp_path: Path) -> None:
    def fail() -> None:
        with open_run(tmp_path / "run", "posttrain", {"epochs": 3}, INPUTS, 7) as run:
            run.log(epoch=1)
            run.checkpoint_dir.mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert open_again(tmp_path / "run").resumed


def test_a_line_of_history_that_was_cut_off_does_not_stop_the_resumption(tmp_path: Path) -> None:
    with training(tmp_path / "run", checkpoint=True):
        pass
    with (tmp_path / "run.partial" / "history.jsonl").open("a") as stream:
        stream.write('{"epoch": 2, "lo')
    with open_run(tmp_path / "run", "posttrain", {"epochs": 3}, {"items": "00ff"}, seed=7) as run:
        assert run.resumed
        run.log(epoch=2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").open()]
    assert lines == [{"epoch": 1, "loss": 0.5}, {"epoch": 2}]


def test_history_is_rewound_to_the_checkpoint(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", "posttrain", CONFIG, INPUTS, 7) as run:
        for epoch in range(4):
            run.log(epoch=epoch)
        run.rewind_history(2)
        run.log(epoch="again")
    lines = [json.loads(line)["epoch"] for line in (tmp_path / "run" / "history.jsonl").open()]
    assert lines == [0, 1, "again"]


def test_identity_is_about_results_not_about_the_place() -> None:
    same = identity_of("posttrain", {**CONFIG, "out": "elsewhere"}, INPUTS)
    assert identity_of("posttrain", CONFIG, INPUTS) == same
    assert identity_of("posttrain", {**CONFIG, "checkpoint_minutes": 1.0}, INPUTS) == same
    assert identity_of("posttrain", {**CONFIG, "epochs": 4}, INPUTS) != same
    assert identity_of("posttrain", CONFIG, {"items": "other"}) != same
    assert identity_of("train-ctr", CONFIG, INPUTS) != same


def test_somebody_elses_folder_or_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="photos: is a folder that moonrec did not write"):
        write_run(tmp_path / "photos")
    with pytest.raises(UserError, match="file: is a file"):
        write_run(tmp_path / "file")
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "cat"
    assert names(tmp_path) == ["file", "photos"]
    (tmp_path / "empty").mkdir()
    refuse_foreign_folder(tmp_path / "empty", "provenance.json")
    write_run(tmp_path / "empty")


@pytest.mark.parametrize("text", ['{"command": "posttrain"}', "{}", "[]", '{"comm'])
def test_the_folder_of_another_command_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    provenance = tmp_path / "run" / "provenance.json"
    provenance.write_text(text)
    named = "written by `moonrec posttrain`" if "posttrain" in text else "does not tell which command"
    with (
        pytest.raises(UserError, match=f"{named}.*choose another -o"),
        open_run(tmp_path / "run", "evaluate", CONFIG, INPUTS, 0),
    ):
        pass
    assert provenance.read_text() == text
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize(
    "out", ["x" * 300, "deep/" + "x" * 300 + "/run", "/proc/nowhere", "/proc/nowhere/run"]
)
def test_a_place_that_cannot_be_is_one_line(tmp_path: Path, out: str) -> None:
    with pytest.raises(UserError, match=r"cannot be written \(.*\); choose another output"):
        write_run(tmp_path / out)


def test_a_second_process_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    with training(tmp_path / "run"), pytest.raises(UserError, match="another moonrec process is writing"):
        write_run(tmp_path / "run")
    write_run(tmp_path / "run")
    assert names(tmp_path) == ["run"]


def test_a_lock_whose_file_is_deleted_under_it_keeps_others_out(tmp_path: Path) -> None:
    """Processes that start and end at the same moment: at most one is inside at any time."""
    script = """
        import os, sys
        from moonrec.errors import UserError
        from moonrec.runs import locked
        from pathlib import Path
        out, inside = Path(sys.argv[1]), Path(sys.argv[1] + ".inside")
        entered = 0
        while entered < 400:
            try:
                with locked(out):
                    os.mkdir(inside)  # fails when somebody else is inside
                    os.rmdir(inside)
                    entered += 1
            except UserError:
                pass
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "run")]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
