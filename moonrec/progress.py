"""One progress bar for the whole library: tqdm on stderr, silent in logs and for short jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Wrap `iterable` in a bar that appears after two seconds, when stderr is a terminal."""
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
