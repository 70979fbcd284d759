"""Compiled loops, for what would take several passes over large arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function, *, fast_math: Collection[str] = ()) -> _Function:
    """Compile at first use, without Python's lock; the machine code is kept on disk where that is possible.

    An installation of which neither the folder nor the user's cache can be written to compiles once per
    process instead.

    Args:
        function: what numba can compile.
        fast_math: LLVM's names of what may be done to sums and products; without any, numbers are computed in
            the order written, as in Python.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": set(fast_math), "error_model": "numpy"}
    try:
        kernel: _Function = numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        # numba has no type of its own for it.
        if "no locator available" not in str(error):
            raise
        kernel = numba.njit(cache=False, **options)(function)
    return kernel
