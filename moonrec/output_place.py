"""Where a command may write: nowhere among what it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from moonrec.errors import UserError


def folder_or_none(name: str | None) -> str | None:
    """`name` where such a folder stands; None where it is the name of something that is no file here."""
    # Unlike Path.is_dir, this does not raise where a name is too long to be one.
    return name if name is not None and os.path.isdir(name) else None


def refuse_inside_inputs(
    out: Path | str, inputs: Iterable[tuple[str, Path | str | None]], option: str = "-o"
) -> None:
    """Refuse an output that would overwrite an input, become a part of it, or replace the folder it is in.

    Args:
        out: the file or folder to write; it need not be there.
        inputs: option and path of each input; those that are None are passed over.
        option: how the output was named.

    Raises:
        UserError: `out` is an input, lies in one, or is a folder around one.
    """
    place = Path(out).resolve()
    for source, given in inputs:
        if given is None:
            continue
        found = Path(given).resolve()
        if place == found or found in place.parents:
            raise UserError(f"{option} {out}: lies in the input {source} {given}; choose another output")
        if place in found.parents:
            raise UserError(
                f"{option} {out}: is a folder around the input {source} {given}; choose another output"
            )
