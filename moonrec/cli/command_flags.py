"""Flags of the commands that experiments run, read as those commands read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from moonrec.cli import ranking, training
from moonrec.errors import UserError

_COMMANDS: Mapping[str, click.Command] = {"posttrain": training.posttrain, "train-ctr": ranking.train_ctr}
# Of the command line alone.
_NOT_OPTIONS = ("json_", "no_cache")


def flags_of(command: str) -> dict[str, str]:
    """Flags of a command, without dashes in front and with underscores, to the options' names in Python."""
    return {
        flag.removeprefix("--").replace("-", "_"): str(option.name)
        for option in _COMMANDS[command].params
        for flag in option.opts
        if flag.startswith("--")
    }


def read_flags(command: str, flags: Mapping[str, str], given: str = "--set") -> dict[str, Any]:
    """Flags of a command as its command line reads them, and the defaults of all others.

    Args:
        command: `posttrain` or `train-ctr`.
        flags: as text, by the names of `flags_of`.
        given: the option that they came with.

    Raises:
        UserError: a value that the flag does not take.
    """
    names = flags_of(command)
    needed = [
        part for option in _COMMANDS[command].params if option.required for part in (option.opts[-1], "")
    ]
    try:
        context = _COMMANDS[command].make_context(
            command, needed, default_map={names[name]: value for name, value in flags.items()}
        )
    except click.UsageError as error:
        raise UserError(f"{given}: {error.format_message()}") from error
    return {name: value for name, value in context.params.items() if name not in _NOT_OPTIONS}
