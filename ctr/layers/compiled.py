"""How the CPU kernels are compiled, and which numbers they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

import moonrec.compiled

# Sums may be reordered (which vectorises them); infinities and NaN keep their meaning.
_FAST_MATH = {"contract", "reassoc", "nsz", "arcp"}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile at first use, with sums in any order; see `moonrec.compiled`."""
    return moonrec.compiled.compiled(function, fast_math=_FAST_MATH)


def kernel_floats(*tensors: Tensor) -> list[Tensor]:
    """The tensors in float32, which is all that the kernels read; differentiable.

    Under autocast, or beside embeddings of another type, their inputs come in others.
    """
    return [tensor.to(torch.float32) for tensor in tensors]


def kernel_rows(*tensors: Tensor) -> list[Tensor]:
    """Rows and offsets in int64: another type would be compiled once more."""
    return [tensor.to(torch.int64) for tensor in tensors]
