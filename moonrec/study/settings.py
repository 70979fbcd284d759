"""Options of another command that a study passes on, as texts `NAME=VALUE`."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence

from moonrec.errors import UserError


def near(name: str, known: Iterable[str]) -> str:
    """The names that may have been meant, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known)
    return f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(known)}"


def parse_settings(given: Sequence[str], option: str, command: str) -> dict[str, str]:
    """`("epochs=5", "dims=64", "32")` to `{"epochs": "5", "dims": "64,32"}`; names with underscores.

    A part without `=` goes on the value before it, which a comma has cut.

    Args:
        given: the texts.
        option: where they were given, such as `--set`.
        command: of moonrec, whose options they are.

    Raises:
        UserError: there is no name, or one is given twice.
    """
    found: dict[str, str] = {}
    last = ""
    for part in given:
        name, equals, value = part.partition("=")
        if equals:
            last = name.strip().lstrip("-").replace("-", "_")
            if last in found:
                raise UserError(f"{option} {last}: given twice; name it once")
            found[last] = value.strip()
        elif last:
            found[last] += f",{part}"
        if not last:
            raise UserError(f"{option} {part}: expected NAME=VALUE, an option of `moonrec {command}`")
    return found


def check_settings(
    settings: Iterable[str],
    option: str,
    known: Mapping[str, str],
    own: Collection[str],
    command: str,
    by: str,
) -> None:
    """Raise a `UserError` for a setting that is not free, or that its command does not know.

    Args:
        settings: names of `parse_settings`.
        option: where they were given.
        known: flags of the command, in the same form.
        own: those that are not free.
        command: whose options they are.
        by: who sets those that are not free.
    """
    free = sorted({*known} - {*own})
    for name in settings:
        if name in own:
            raise UserError(f"{option} {name}: is not set here, since {by} sets it by itself")
        if name not in free:
            raise UserError(f"{option} {name}: `moonrec {command}` has no such option; {near(name, free)}")
