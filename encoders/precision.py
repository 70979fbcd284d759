"""bf16 where the hardware multiplies it natively, float32 elsewhere; one place decides."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from moonrec.errors import UserError


def has_fast_bf16(device: torch.device) -> bool:
    """True on GPUs with bf16 and on CPUs with AVX-512 BF16 or AMX (3 to 4 times faster there)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(supported is not None and supported())
    return False


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Run a block in bf16 where that is fast."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device))


def pick_device(name: str) -> torch.device:
    """`auto` takes a GPU when there is one; `cpu`, `cuda` and `cuda:1` are taken as they are.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such device; expected auto, cpu, cuda, cuda:1, ...") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: moonrec runs on cpu and cuda")
    found = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= found:
        raise UserError(f"--device {name}: this machine shows torch {found} GPUs; say auto, or cpu")
    return device
