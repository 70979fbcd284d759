"""Flags of the commands whose cells `moonrec scaling` computes, read as those commands read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from moonrec.cli import ranking, training
from moonrec.cli.ablation import read_flags
from moonrec.errors import UserError

_COMMANDS: Mapping[str, click.Command] = {"posttrain": training.posttrain, "train-ctr": ranking.train_ctr}


def flags_of(command: str) -> dict[str, str]:
    """Flags of a command, without dashes in front and with underscores, to the options' names in Python."""
    return {
        flag.removeprefix("--").replace("-", "_"): str(option.name)
        for option in _COMMANDS[command].params
        for flag in option.opts
        if flag.startswith("--")
    }


def read(command: str, flags: Mapping[str, str]) -> dict[str, Any]:
    """Flags of a command as its command line reads them, and the defaults of all others.

    Raises:
        UserError: a value that the flag does not take.
    """
    if command == "posttrain":
        return read_flags(flags)
    names = flags_of(command)
    needed = [part for name in ("impressions", "test", "events", "out") for part in (f"--{name}", "-")]
    try:
        context = _COMMANDS[command].make_context(
            command, needed, default_map={names[name]: value for name, value in flags.items()}
        )
    except click.UsageError as error:
        raise UserError(f"options of {command}: {error.format_message()}") from error
    return {name: value for name, value in context.params.items() if name not in ("json_", "config")}
