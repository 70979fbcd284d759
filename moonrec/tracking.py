"""A run's log for TensorBoard, where it is installed: the numbers of `history.jsonl` as curves.

A line of the log is one event in `tensorboard/`, or in `tensorboard/seed-N/` if it belongs to a seed:
TensorBoard takes a folder for a run and draws the seeds into one plot. Records are made by TensorBoard's own
writer, without TensorFlow and torch, and appended whole, so that a killed process leaves files that can be
read. Its usual file names hold the name of the machine, which a run folder does not tell; ours is fixed.

https://www.tensorflow.org/tensorboard
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
_FILE = "events.out.tfevents.moonrec"
_VERSION = "brain.Event:2"
_STEPS, _PREFIXES, _SEED = ("step", "epoch"), ("round", "stage"), "seed"


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of the log by the name of their curve, such as `round 1/loss`, `click/auc`.

    A mapping inside the line adds its name; what is no number (None, texts, lists) has no curve.
    """
    prefix = [str(line[name]) for name in _PREFIXES if name in line]
    measured = {name: value for name, value in line.items() if name not in (*_STEPS, *_PREFIXES, _SEED)}
    return {"/".join([*prefix, *names]): value for names, value in _numbers(measured)}


class EventFiles:
    """The event files of one run folder; nothing is written where TensorBoard is not installed."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER

    def append(self, line: Mapping[str, Any]) -> None:
        """Add the numbers of one line of the log; a line that tells neither step nor epoch has no place."""
        self._write(line, None)

    def rewrite(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Make the files tell of `lines` only, each at the time at which it was first told."""
        times = {path: iter(_times(path)) for path in self._folder.rglob(_FILE)}
        shutil.rmtree(self._folder, ignore_errors=True)
        for line in lines:
            self._write(line, times.get(self._path(line)))

    def _path(self, line: Mapping[str, Any]) -> Path:
        folder = self._folder / f"{_SEED}-{line[_SEED]}" if _SEED in line else self._folder
        return folder / _FILE

    def _write(self, line: Mapping[str, Any], times: Iterator[float] | None) -> None:
        values = scalars(line)
        step = next((line[name] for name in _STEPS if isinstance(line.get(name), int)), None)
        if values and step is not None and _installed():
            now = time.time()
            _append(self._path(line), values, step, now if times is None else next(times, now))


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from (((name, *names), number) for names, number in _numbers(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (name,), float(value)


def _installed() -> bool:
    try:
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except Exception:  # one that is there and does not fit its protobuf raises other errors than ImportError
        return False
    return True


def _append(path: Path, values: Mapping[str, float], step: int, when: float) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    with path.open("ab") as stream:
        writer = RecordWriter(stream)
        if stream.tell() == 0:
            writer.write(Event(wall_time=when, file_version=_VERSION).SerializeToString())
        writer.write(Event(wall_time=when, step=step, summary=summary).SerializeToString())


def _times(path: Path) -> list[float]:
    """When the lines were told whose records in a file are whole."""
    if not _installed():
        return []
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    events = LegacyEventFileLoader(str(path)).Load()
    return [event.wall_time for event in events if event.HasField("summary")]
