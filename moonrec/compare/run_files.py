"""What a finished run left in its folder, as far as a page needs it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonrec.compare.bounded_files import (
    parse_object,
    read_bytes,
    read_json_lines,
    read_json_object,
    read_options,
)
from moonrec.errors import UserError
from moonrec.images import BrokenImage, decode_image

_METRICS, _PROVENANCE, _CONFIG = "metrics.json", "provenance.json", "config.yaml"
_DEMO = "demo.json"
# Bounds of ours, far above what runs write: a year's history, a thousand small pictures.
_METRICS_BYTES, _HISTORY_BYTES, _SMALL_BYTES, _EXAMPLES_BYTES, _PLOT_BYTES = (
    size << 20 for size in (32, 128, 2, 64, 8)
)
_MAX_PLOTS = 24


@dataclass(frozen=True)
class RunFiles:
    """A finished run.

    Attributes:
        path: its folder.
        name: what the page calls it.
        command: of moonrec, such as `train-ctr`.
        metrics: `metrics.json`; `demo.json` of a demo.
        history: the lines of `history.jsonl`; none where the command logs nothing.
        config: `config.yaml`; empty of a demo.
        provenance: `provenance.json`; empty of a demo.
        examples: `examples.json`; empty where there is none.
        plots: PNG files that stand beside these, by name.
    """

    path: Path
    name: str
    command: str
    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    examples: Mapping[str, Any]
    plots: Mapping[str, bytes]


def read_run(path: Path, name: str) -> RunFiles:
    """Read the run folder `path`.

    Raises:
        UserError: it is no folder of a finished run, or one of its files is not what a run writes.
    """
    if not os.path.isdir(path):
        raise UserError(f"{path}: is not a folder; expected a run folder, which a command wrote with -o")
    if (path / _DEMO).exists() and not (path / _METRICS).exists():
        return _demo(path, name)
    for needed in (_METRICS, _PROVENANCE, _CONFIG):
        if not os.path.exists(path / needed):
            raise UserError(
                f"{path}: holds no {needed}, so it is not the folder of a finished run; run the command that "
                "writes it to its end, or leave it out"
            )
    provenance = read_json_object(path / _PROVENANCE, _SMALL_BYTES)
    command = provenance.get("command")
    if not isinstance(command, str) or not command:
        raise UserError(
            f"{path / _PROVENANCE}: expected the name of a command in `command`, found {command!r:.80}"
        )
    history, examples = path / "history.jsonl", path / "examples.json"
    return RunFiles(
        path=path,
        name=name,
        command=command,
        metrics=read_json_object(path / _METRICS, _METRICS_BYTES),
        history=read_json_lines(history, _HISTORY_BYTES) if os.path.exists(history) else [],
        config=read_options(path / _CONFIG, _SMALL_BYTES),
        provenance=provenance,
        examples=read_json_object(examples, _EXAMPLES_BYTES) if os.path.exists(examples) else {},
        plots=_plots(path),
    )


def _demo(path: Path, name: str) -> RunFiles:
    found = parse_object(read_bytes(path / _DEMO, _METRICS_BYTES), str(path / _DEMO))
    return RunFiles(path, name, "demo", found, [], {}, {}, {}, _plots(path))


def _plots(path: Path) -> dict[str, bytes]:
    """The folder's PNG files; what only bears the name of one is passed over."""
    found = {}
    for file in sorted(path.glob("*.png"))[:_MAX_PLOTS]:
        content = read_bytes(file, _PLOT_BYTES)
        try:
            decode_image(content)
        except BrokenImage:
            continue
        if content.startswith(b"\x89PNG"):
            found[file.name] = content
    return found


def run_names(paths: Sequence[Path]) -> list[str]:
    """A name per run folder: its own, with as many folders above it as tell the runs apart."""
    parts = [Path(os.path.abspath(path)).parts[1:] for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
