"""Features of up to 256 products on disk: one file of plain arrays, opened as a memory map.

A file is `_MAGIC`, the length of a JSON list in 8 bytes, that list, which gives name, dtype and shape of each
array, and then the arrays, each from a multiple of 64 bytes on. It is mapped as a whole, since Linux lets a
process hold 65,530 maps (`vm.max_map_count`): enough for the shards of about 16 million products.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from moonrec.atomic import atomic_file
from moonrec.errors import UserError

_ARRAYS = {"image": "<f2", "has_image": "|b1", "text": "<f2", "aspect": "|u1", "offsets": "<i8"}
_MAGIC = b"moonrec shard 1\n"
_LENGTH_BYTES = 8
_ALIGNMENT = 64
_MAP_LIMIT = Path("/proc/sys/vm/max_map_count")


@dataclass(frozen=True)
class Shard:
    """Features of up to 256 products as arrays; `offsets` says which text tokens belong to which product."""

    image: np.ndarray
    has_image: np.ndarray
    text: np.ndarray
    aspect: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.has_image)

    def save(self, path: Path) -> None:
        """Write the arrays to `path`, atomically.

        Raises:
            UserError: the disk is full or the place cannot be written.
        """
        arrays = {name: np.ascontiguousarray(getattr(self, name), dtype) for name, dtype in _ARRAYS.items()}
        header = json.dumps([[name, array.dtype.str, array.shape] for name, array in arrays.items()]).encode()
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            stream.write(_MAGIC + len(header).to_bytes(_LENGTH_BYTES, "little") + header)
            for array in arrays.values():
                stream.write(bytes(-stream.tell() % _ALIGNMENT))
                stream.write(array.data if array.size else b"")

    @classmethod
    def open(cls, path: Path) -> Shard | None:
        """Memory-map a saved shard; None when it is not there or is damaged (it is computed again).

        Raises:
            UserError: the system lets this process map no more files.
        """
        try:
            with path.open("rb") as stream:
                header, start = _read_header(stream)
            size = path.stat().st_size
            places = list(_places(header, start))
            if not places or places[-1][1] != size:
                return None
            # Mapped without an open file: there are more shards than a process may have files open.
            bytes_ = _mapped(path, size)
            found = (
                bytes_[begin:end].view(dtype).reshape(shape)
                for (_, dtype, shape), (begin, end) in zip(header, places, strict=True)
            )
            return cls(**dict(zip(_ARRAYS, found, strict=True)))
        except (FileNotFoundError, ValueError, TypeError):
            return None


def _read_header(stream: BinaryIO) -> tuple[list[tuple[str, str, Sequence[int]]], int]:
    """What the arrays are, and where the header ends.

    Raises:
        ValueError: this is no shard.
        TypeError: likewise.
    """
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("not a shard")
    length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
    header: list[Any] = json.loads(stream.read(min(length, 1 << 16)))
    if {name: dtype for name, dtype, _ in header} != _ARRAYS or len(header) != len(_ARRAYS):
        raise ValueError("other arrays")
    return [(name, dtype, shape) for name, dtype, shape in header], stream.tell()


def _places(header: Sequence[tuple[str, str, Sequence[int]]], start: int) -> Iterator[tuple[int, int]]:
    """Where each array begins and ends in the file."""
    for _, dtype, shape in header:
        start += -start % _ALIGNMENT
        end = start + math.prod(shape) * np.dtype(dtype).itemsize
        yield start, end
        start = end


def _mapped(path: Path, size: int) -> np.ndarray:
    try:
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except (OSError, RuntimeError) as error:
        if "allocate memory" not in str(error):
            raise
        limit = _MAP_LIMIT.read_text().strip() if _MAP_LIMIT.exists() else "unknown"
        raise UserError(
            f"{path}: the system maps no more files into this process (vm.max_map_count is {limit}); raise "
            "it, for example with `sysctl -w vm.max_map_count=1048576`, and lift limits on virtual memory"
        ) from error
