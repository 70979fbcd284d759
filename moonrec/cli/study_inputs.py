"""What experiments look at before they train: tables, leaks from the test, the content of a start."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moonrec.errors import UserError
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, Table, open_table

_TRAINING = {"items": ITEMS, "searches": SEARCHES, "events": EVENTS, "holdout": IMPRESSIONS}


def one_process(command: str) -> None:
    """Raise a `UserError` under torchrun: a study trains one cell after the other."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"moonrec {command} is one process; start it without torchrun")


def plain_options(config: Any) -> dict[str, Any]:
    """A dataclass of options, as `config.yaml` holds it for `--config`; `plan` decides nothing of a study."""
    options: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    options.pop("plan", None)
    return options


def open_training(config: Any) -> tuple[dict[str, Table], Table]:
    """The tables that an encoder learns from, by option, and the searches that it is tested on.

    Args:
        config: options with the paths `items`, `searches`, `events` and `holdout`, which may be None, and
            `test`.

    Raises:
        UserError: one cannot be opened, or the test was trained on.
    """
    named = {name: getattr(config, name) for name in _TRAINING}
    tables = {name: open_table(path, _TRAINING[name]) for name, path in named.items() if path is not None}
    test = open_table(config.test, SEARCHES)
    if "searches" in tables:
        _refuse_leak(tables["searches"], test)
    return tables, test


def late_notes(tables: Mapping[str, Table], test: Table) -> list[str]:
    """A warning where encoders may have learnt from the time of the test."""
    if test.time_range is None:
        return []
    begins = test.time_range[0]
    cut = tables["holdout"].time_range if "holdout" in tables else None
    if cut is not None and cut[0] <= begins:
        return []
    late = [
        f"--{name}"
        for name in ("searches", "events")
        if name in tables and (found := tables[name].time_range) and found[1] >= begins
    ]
    if not late:
        return []
    reason = "no --holdout was named" if cut is None else "--holdout begins only after the test does"
    return [
        f"{' and '.join(late)} reach into the time of the test searches and {reason}: the rows may have "
        "learnt from the future, and all numbers are optimistic."
    ]


def start_fingerprint(start: str) -> str:
    """Of the folder that trainings start from, by content; a name stands for itself."""
    # Unlike Path.is_dir, this does not raise where a name is too long.
    if not start or not os.path.isdir(start):
        return start
    folder = Path(start)
    # A run's log and report say nothing about its weights.
    return folder_digest(folder / "model" if (folder / "model").is_dir() else folder)


def folder_digest(folder: Path) -> str:
    """A digest of a folder's files, by name and content."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}:{_digest(path)}\n".encode())
    return total.hexdigest()


def _refuse_leak(searches: Table, test: Table) -> None:
    """Files are compared by content: a copy under another name is the same searches."""
    if _contents(searches) & _contents(test):
        raise UserError(
            f"--test {test.path}: holds a file of --searches {searches.path}, so rows would be tested on "
            "what they learnt; hold some searches out"
        )


def _contents(table: Table) -> set[str]:
    return {_digest(part.path) for part in table.parts}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
