"""What is wrong with the options of `moonrec augment`, told before anything is computed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from encoders.augment.models import NONE
from moonrec.errors import UserError
from moonrec.output_place import refuse_inside_inputs

if TYPE_CHECKING:
    from encoders.augment.augment import AugmentConfig

_LONGEST_SHOWN = 80


def check_options(config: AugmentConfig) -> None:
    """Refuse options that cannot be meant, and outputs that cannot be written.

    Raises:
        UserError: one of them is wrong; the message starts with its flag.
    """
    if config.titles == config.images == NONE:
        raise UserError("--titles none --images none: nothing is left to do; ask for one of them")
    if config.variants < 1:
        raise UserError(f"--variants {config.variants}: expected at least 1, or --images none")
    if not 0 <= config.min_agreement <= 1:
        raise UserError(f"--min-agreement {config.min_agreement}: expected a share, 0 to 1")
    named = {
        "--items": config.items, "-o": config.out, "--titles": config.titles, "--images": config.images,
        "--encoder": config.encoder, "--sheet": config.sheet,
    }  # fmt: skip
    for option, value in named.items():
        if value is not None:
            _check_name(option, value)
    if config.cache is not None:
        _check_reachable("--cache", config.cache)
    _check_output("-o", config.out, "the Parquet file", config.items)
    if config.sheet is not None:
        _check_output("--sheet", config.sheet, "the PNG file", config.items)
        if Path(config.sheet).resolve() == Path(config.out).resolve():
            raise UserError(f"--sheet {config.sheet}: is the output itself; choose another name")


def _check_name(option: str, value: str) -> None:
    if not value.strip():
        raise UserError(f"{option} {value!r}: is blank; name what is meant, or leave the option out")
    _check_reachable(option, value)


def _check_reachable(option: str, value: str) -> None:
    try:
        Path(value).exists()
    except (OSError, ValueError) as error:
        raise UserError(f"{option} {_short(value)}: is no usable name ({_reason(error)})") from error


def _check_output(option: str, out: str, what: str, items: str) -> None:
    try:
        refuse_inside_inputs(out, [("--items", items)])
    except UserError as error:
        raise UserError(f"{option} {str(error).removeprefix('-o ')}") from error
    if Path(out).is_dir():
        raise UserError(f"{option} {out}: is a folder; name {what} to write")
    path = Path(out)
    made = [folder for folder in path.parents if not folder.exists()]
    # As the output will be written: what a rename may replace tells nothing of the folder around it.
    trial = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
    except OSError as error:
        raise UserError(
            f"{option} {_short(out)}: cannot be written ({_reason(error)}); choose another name"
        ) from error
    finally:
        for remove in (trial.unlink, *(folder.rmdir for folder in made)):
            with suppress(OSError):
                remove()


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}…"


def _reason(error: OSError | ValueError) -> str:
    code = error.errno if isinstance(error, OSError) else None
    return str(error) if code is None else os.strerror(code).lower()
