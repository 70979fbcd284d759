"""Reads the small files of a run folder that anybody may have written: bounded, their form checked."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from moonrec.errors import UserError

_HEAD = 4096


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of an ordinary file of at most `limit` bytes.

    Raises:
        UserError: it is not there, not an ordinary file, or larger.
    """
    content = _first_bytes(path, limit + 1)
    if len(content) > limit:
        raise UserError(f"{path}: is larger than {limit >> 20} MiB; a run's own file is far smaller")
    return content


def read_head(path: Path) -> bytes:
    """The first bytes of an ordinary file.

    Raises:
        UserError: it is not there or not an ordinary file.
    """
    return _first_bytes(path, _HEAD)


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        # O_NONBLOCK: opening a fifo would otherwise wait for its writer for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path}: is not an ordinary file")
            return file.read(count)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_json_object(path: Path, limit: int) -> dict[str, Any]:
    """The object in a JSON file; NaN and infinities are None.

    Raises:
        UserError: the file cannot be read, is no JSON, or holds something else than an object.
    """
    return parse_object(read_bytes(path, limit), str(path))


def read_json_lines(path: Path, limit: int) -> list[dict[str, Any]]:
    """The objects in a file with one JSON object a line; NaN and infinities are None.

    Raises:
        UserError: the file cannot be read, or a line is no JSON object.
    """
    lines = read_bytes(path, limit).splitlines()
    return [
        parse_object(line, f"{path}: line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text`; `where` begins the message when there is none.

    Raises:
        UserError: the text is no JSON, or holds something else than an object.
    """
    try:
        found = json.loads(
            text.decode("utf-8"), parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise UserError(f"{where}: is not the JSON that a run leaves behind ({reason})") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(found).__name__}")
    return found


def read_options(path: Path, limit: int) -> dict[str, Any]:
    """The mapping in a YAML file of options.

    Raises:
        UserError: the file cannot be read, is no YAML, repeats parts by reference, or holds no mapping.
    """
    content = read_bytes(path, limit)
    try:
        text = content.decode("utf-8")
        # A few references to references write out to gigabytes; no run's options hold any.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise UserError(f"{path}: holds references (*name), which no run's options do")
        found = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as YAML ({str(error)[:200]})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a mapping of options, found {type(found).__name__}")
    return {str(name): value for name, value in found.items()}


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _whole(text: str) -> int | float | None:
    """A whole number; one beyond 64 bits, which no run counts to, as a float."""
    return int(text) if len(text) < 19 else _finite(text)
