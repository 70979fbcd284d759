"""What a study notes beside each cell, so that a cell is taken up again only if it fits.

A record is JSON: `options` and `inputs` say of what the cell was made, `made_by` with which versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moonrec.errors import UserError
from moonrec.runs import source_commit, versions


def made_by() -> dict[str, Any]:
    """The versions that make a cell now."""
    return {**versions(), "git_commit": source_commit()}


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, with `options`, `inputs` and `made_by`; None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        dict(record["options"]), dict(record["inputs"]), dict(record["made_by"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable(path) from error
    return record


def unreadable(path: Path) -> UserError:
    """What to raise for a record that is damaged."""
    return UserError(f"{path}: cannot be read; delete it, and the cell is made again")


def check_record(
    path: Path, record: Mapping[str, Any], options: Mapping[str, Any], inputs: Mapping[str, Any], stale: Path
) -> None:
    """Raise a `UserError` where a cell was made of other options or inputs, with the first that differs.

    Args:
        path: of the record.
        record: its content.
        options: of the cell as it is asked for; one that is not there is one that is None.
        inputs: its fingerprints.
        stale: the folder of all cells that were made so, which may be deleted.
    """
    apart = _apart(record["options"], options) or _apart(record["inputs"], inputs)
    if apart:
        raise UserError(
            f"{path}: this cell was made with another {apart}; choose another -o, or delete {stale}"
        )


def version_notes(makers: Iterable[Mapping[str, Any]]) -> list[str]:
    """A warning where cells were not all made by the same versions.

    Args:
        makers: `made_by` of every cell.
    """
    different = {json.dumps(maker, sort_keys=True) for maker in makers}
    if len(different) < 2:
        return []
    return [
        f"The cells were made by {len(different)} different sets of software versions (see made_by in "
        "cells/*/*.json): a difference may be one of software."
    ]


def _apart(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs first, in words; empty for nothing."""
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            return f"{name} ({_shown(then.get(name))} then, {_shown(now.get(name))} now)"
    return ""


def _shown(value: Any) -> Any:
    return "the default" if value is None or value == "" else value
