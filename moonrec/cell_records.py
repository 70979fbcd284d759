"""What an experiment notes beside each finished part, so that a part is taken up again only if it fits.

A record is JSON: `options` and `inputs` say of what the part was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moonrec.errors import UserError


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, with `options` and `inputs`; None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        dict(record["options"]), dict(record["inputs"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read; delete it, and the cell is made again") from error
    return record


def check_record(
    path: Path, record: Mapping[str, Any], options: Mapping[str, Any], inputs: Mapping[str, Any]
) -> None:
    """Raise a `UserError` where a part was made of other options or inputs, with the first that differs."""
    apart = _apart(record["options"], options) or _apart(record["inputs"], inputs)
    if apart:
        raise UserError(
            f"{path}: this cell was made with another {apart}; choose another -o, or delete {path.parent}"
        )


def _apart(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs first, in words; empty for nothing."""
    for name in sorted({*then, *now}):
        if then.get(name, "absent") != now.get(name, "absent"):
            return f"{name} ({_value_of(then, name)} then, {_value_of(now, name)} now)"
    return ""


def _value_of(options: Mapping[str, Any], name: str) -> Any:
    value = options.get(name, "absent")
    return "the default" if value is None or value == "" else value
