"""Options that may be given several times, with one or several values each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from moonrec.cli.framework import CommaSeparated


class _Repeated(click.Option):
    """A config file gives its values as a list, or a single one as a text."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        return super().type_cast_value(ctx, (value,) if isinstance(value, str) else value)


class _Whole(CommaSeparated):
    """One text as it stands, commas and spaces and all; a config file still lists several."""

    name = "TEXT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The text alone."""
        return (str(value),)


def _joined(_: click.Context, __: click.Parameter, given: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    return tuple(part for parts in given for part in parts)


def repeated(name: str, *, split: bool = True, **options: Any) -> Callable[[Any], Any]:
    """An option whose value is the tuple of all texts given, in order; empty without any.

    Args:
        name: the flag.
        split: whether commas part texts, too; without, a text may hold commas.
        options: of `click.option`.
    """
    kind = CommaSeparated() if split else _Whole()
    return click.option(name, cls=_Repeated, type=kind, multiple=True, callback=_joined, **options)
