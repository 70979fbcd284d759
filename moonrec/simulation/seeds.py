"""Independent random streams by name, so that one thing drawn more or less never shifts another."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, name: str, *indices: int) -> np.random.Generator:
    """Return the generator of `name` (and, say, of one item's photo: `indices`) under `seed`."""
    key = (zlib.crc32(name.encode()), *indices)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
