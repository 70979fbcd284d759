"""Run folders: what a command leaves behind, complete or not at all.

While a command works, everything stands in `OUT.partial`; when it ends well the folder is exchanged for `OUT`
in one step. A killed command leaves `OUT.partial` with its last checkpoint; the same command with the same
inputs finds it and goes on, any other command starts it anew and says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

import moonrec
from moonrec.atomic import atomic_file, replace_folder, storage_errors, write_json
from moonrec.errors import UserError
from moonrec.tracking import EventFiles

_ARITHMETIC = ["torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "transformers", "accelerate"]
# Options that do not decide a result: where it is written, and how often what there is so far is.
_INDECISIVE = ("out", "output", "checkpoint_minutes")
_PROVENANCE = "provenance.json"
_PACKAGES = [*_ARITHMETIC, "numpy", "pandas", "pyarrow", "scikit-learn", "pillow"]


class Run:
    """An open run folder: a place for the model, a log, metrics and checkpoints."""

    def __init__(self, path: Path, resumed: bool) -> None:
        self.path = path
        self.resumed = resumed
        self.model_dir = path / "model"
        self.checkpoint_dir = path / "checkpoint"
        self.model_dir.mkdir(exist_ok=True)
        self._history_path = path / "history.jsonl"
        self._history_path.touch()
        self._events = EventFiles(path)
        self.history: list[dict[str, Any]] = []
        if resumed:
            self.history = _whole_lines(self._history_path)
            self.rewind_history(len(self.history))

    def log(self, **values: Any) -> None:
        """Append one line to `history.jsonl`, and its numbers to the curves for TensorBoard."""
        line = json.dumps(values, allow_nan=False) + "\n"
        self.history.append(values)
        with self._history_path.open("a", encoding="utf-8") as stream:
            stream.write(line)
        self._events.append(values)

    def rewind_history(self, lines: int) -> None:
        """Forget what was logged after a checkpoint that held `lines` lines."""
        self.history = self.history[:lines]
        with atomic_file(self._history_path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.history), encoding="utf-8")
        self._events.rewrite(self.history)

    def save_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json`; undefined numbers are `None`, never NaN."""
        write_json(self.path / "metrics.json", metrics)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The logged lines; a last one that a full disk cut off is left out."""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines: list[dict[str, Any]] = []
    # What follows a damaged line was logged after it: a checkpoint that counts more lines is of no use.
    with suppress(json.JSONDecodeError):
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):
                lines.append(json.loads(line))
    return lines


def versions() -> dict[str, str]:
    """Versions of moonrec, Python and the packages whose arithmetic decides the results."""
    found = {"moonrec": moonrec.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def source_commit() -> str | None:
    """The git commit of moonrec's own source, `+changes` when the tree differs; None outside a checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes.strip() else "")


def refuse_foreign_folder(out: Path, marker: str) -> None:
    """Raise when `out` exists and is not something that moonrec wrote (it holds no `marker`)."""
    # Unlike Path.exists, this does not raise where a name is too long: the writer says so.
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"{out}: is a file; the output is a folder, choose another name")
    if os.path.isdir(out) and any(out.iterdir()) and not (out / marker).exists():
        raise UserError(f"{out}: is a folder that moonrec did not write (no {marker}); choose another output")


def refuse_other_run(out: Path, command: str) -> None:
    """Raise when `out` exists and is not a folder that this command wrote."""
    refuse_foreign_folder(out, _PROVENANCE)
    provenance = out / _PROVENANCE
    if not os.path.exists(provenance):
        return
    try:
        maker = json.loads(provenance.read_text(encoding="utf-8"))["command"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{provenance}: does not tell which command wrote {out}; choose another -o"
        ) from error
    if maker != command:
        raise UserError(
            f"{out}: was written by `moonrec {maker}`, and `moonrec {command}` would replace it; "
            "choose another -o"
        )


def identity_of(command: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """A digest of all that decides a run's result; where and how often it is written does not count."""
    decisive = {key: value for key, value in config.items() if key not in _INDECISIVE}
    text = json.dumps([command, decisive, dict(inputs), versions()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def partial_folder(out: Path | str) -> Path:
    """Where the run that will be `out` stands until it is complete."""
    out = Path(out)
    return out.with_name(out.name + ".partial")


@contextmanager
def open_run(
    out: Path | str, command: str, config: Mapping[str, Any], inputs: Mapping[str, str], seed: int
) -> Iterator[Run]:
    """Open the run folder `out` for writing; it appears, complete, when the block ends without an error.

    Args:
        out: the folder to write. An older run of the same command is replaced; any other folder is refused.
        command: the name of the moonrec command.
        config: its resolved options, JSON-able; `config.yaml` holds them and `--config` reads them back.
        inputs: a content fingerprint per input.
        seed: the seed of everything random.

    Raises:
        UserError: `out` is another command's or somebody else's folder, is being written by another
            process, or the disk is full.
    """
    out = Path(out)
    refuse_other_run(out, command)
    partial = partial_folder(out)
    with storage_errors(out), locked(out):
        identity = identity_of(command, config, inputs)
        resumed = _is_partial_of(partial, identity)
        if partial.exists() and not resumed:
            if (partial / "checkpoint").exists():
                told = "the checkpoint there is of other options, inputs or versions; the run starts anew"
                print(f"warning: {partial}: {told}", file=sys.stderr, flush=True)
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        started = datetime.now(UTC)
        (partial / "config.yaml").write_text(options_text(config), encoding="utf-8")
        run = Run(partial, resumed)
        (partial / "identity").write_text(identity)
        try:
            yield run
        except BaseException:
            if not run.checkpoint_dir.exists():
                shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(run.checkpoint_dir, ignore_errors=True)
        (partial / "identity").unlink()
        if not any(run.model_dir.iterdir()):
            run.model_dir.rmdir()
        write_json(
            partial / _PROVENANCE,
            provenance_of(command, inputs, started, seed=seed, machine=_machine(), resumed=resumed),
        )
        replace_folder(partial, out)


def options_text(config: Mapping[str, Any]) -> str:
    """The content of `config.yaml`: tuples are lists there, paths are text."""
    text: str = yaml.safe_dump(json.loads(json.dumps(dict(config), default=str)), sort_keys=False)
    return text


def provenance_of(command: str, inputs: Mapping[str, str], started: datetime, **about: Any) -> dict[str, Any]:
    """The content of `provenance.json` of a command that ends now; `about` is what else it tells."""
    return {
        "command": command,
        "arguments": sys.argv[1:],
        **about,
        "inputs": dict(inputs),
        "versions": versions(),
        "git_commit": source_commit(),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _machine() -> dict[str, Any]:
    """What of the machine decides the order of sums, and with it the last digits of a result."""
    machine: dict[str, Any] = {"cores": os.cpu_count(), "architecture": platform.machine()}
    # Only a command that computes has loaded it.
    if "torch" in sys.modules:
        machine["threads"] = sys.modules["torch"].get_num_threads()
    return machine


def _is_partial_of(partial: Path, identity: str) -> bool:
    """True when `partial` was left by a killed run of the same command on the same inputs."""
    wanted = (partial / "identity", partial / "history.jsonl", partial / "checkpoint")
    return all(path.exists() for path in wanted) and wanted[0].read_text() == identity


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the right to write `out`; the lock goes with the process, however it ends."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lock_path = out.with_name(f".{out.name}.lock")
    with ExitStack() as stack:
        while True:
            lock = stack.enter_context(lock_path.open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{out}: another moonrec process is writing it; wait or choose another output"
                ) from error
            # The holder before us may have deleted the file between our opening and locking it: then our lock
            # keeps nobody out.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), lock_path.stat()):
                    break
        stack.callback(lock_path.unlink, missing_ok=True)
        yield
