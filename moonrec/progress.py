"""What a long command shows on stderr: one progress bar for the whole library, and lines of text."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Wrap `iterable` in a tqdm bar that appears after two seconds, when stderr is a terminal."""
    return tqdm(
        iterable,
        desc=description,
        total=total,
        delay=2.0,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
        leave=False,
        file=sys.stderr,
    )


def say(command: str, text: str) -> None:
    """Tell a line about the command at work."""
    print(f"[{command}] {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
