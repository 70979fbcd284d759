"""The table of boxes: one Parquet file beside the catalogue, in which several detectors may leave theirs.

A row belongs to a picture (the SHA-256 of its file), to the title where that played a role, and to a detector
(the fingerprint of its weights and settings), so that a changed picture or another detector is never given an
old box. In memory a row takes 28 bytes. What is new is added by writing the file anew beside the old one and
renaming it; each time the file grew by an eighth, so that a killed job loses little and a long one writes
little.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from encoders.regions.boxes import WHOLE, Found
from moonrec.atomic import atomic_file
from moonrec.errors import UserError
from moonrec.parquet_files import ParquetPart, open_part
from moonrec.table_schema import missing_column

SOURCES = ("whole", "saliency", "grounding")
SCHEMA = pa.schema(
    {
        "image_sha256": pa.string(),
        "text_sha256": pa.string(),
        "x0": pa.float32(),
        "y0": pa.float32(),
        "x1": pa.float32(),
        "y1": pa.float32(),
        "source": pa.string(),
        "reason": pa.string(),
        "detector": pa.string(),
    }
)
_CORNERS = ("x0", "y0", "x1", "y1")
_AT_LEAST = 1024
_DIGITS = 16
_NIBBLE = np.full(256, 255, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


@dataclass(frozen=True)
class Key:
    """A picture, and the title where it plays a role: both as SHA-256 in hex, the title's empty otherwise."""

    image: str
    text: str = ""

    def number(self) -> int:
        """64 bits of both; the chance that any two of ten million keys share them is one in 400,000."""
        return int(self.image[:_DIGITS], 16) ^ (int(self.text[:_DIGITS], 16) if self.text else 0)


@dataclass
class _Rows:
    """Boxes by key, sorted by it."""

    key_N: np.ndarray
    box_N4: np.ndarray
    what_N: np.ndarray

    def row(self, number: int) -> int | None:
        at = int(np.searchsorted(self.key_N, np.uint64(number)))
        return at if at < len(self.key_N) and int(self.key_N[at]) == number else None


class RegionStore:
    """Boxes of one detector by picture, read from the table at `path` and added to it.

    Args:
        path: the Parquet file, which need not be there; None keeps boxes in memory only.
        detector: the fingerprint of the detector whose boxes are read and added; None stands for all boxes
            that were found with the help of a title.
        write: whether `flush` writes; where several processes share the file, one does.

    Raises:
        UserError: the file is not such a table.
    """

    def __init__(self, path: Path | None, detector: str | None, write: bool = True) -> None:
        self.path = path
        self._detector = detector
        self._write = write and path is not None and detector is not None
        self._whats: list[tuple[str, str]] = []
        self._new: dict[int, tuple[Key, Found]] = {}
        self._rows = self._load()
        self._written = len(self._rows.key_N)

    def __len__(self) -> int:
        return self._written + len(self._new)

    def find(self, key: Key) -> Found | None:
        """What is known of a picture."""
        number = key.number()
        if number in self._new:
            return self._new[number][1]
        row = self._rows.row(number)
        if row is None:
            return None
        source, reason = self._whats[int(self._rows.what_N[row])]
        x0, y0, x1, y1 = (float(value) for value in self._rows.box_N4[row])
        return Found(None if source == "whole" else (x0, y0, x1, y1), source, reason)

    def add(self, key: Key, found: Found) -> Found:
        """Keep what was found, and give it as it will be read again; the file follows now and then."""
        if found.box is not None:
            x0, y0, x1, y1 = (float(np.float32(value)) for value in found.box)
            found = Found((x0, y0, x1, y1), found.source, found.reason)
        self._new[key.number()] = (key, found)
        if self._write and len(self._new) >= max(_AT_LEAST, self._written // 8):
            self.flush()
        return found

    def flush(self) -> None:
        """Write what is new, beside what the file holds by now.

        Raises:
            UserError: the disk is full, or the file was damaged in the meantime.
        """
        if not self._write or not self._new or self.path is None:
            return
        with atomic_file(self.path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
            if self.path.exists():
                for _, batch in _batches(open_part(self.path)):
                    writer.write_batch(batch)
            writer.write_table(self._as_table())
        self._rows = self._load()
        self._written = len(self._rows.key_N)
        self._new.clear()

    def _as_table(self) -> pa.Table:
        rows = list(self._new.values())
        boxes = np.array([found.box or WHOLE for _, found in rows], np.float32)
        columns: dict[str, object] = {
            "image_sha256": [key.image for key, _ in rows],
            "text_sha256": [key.text for key, _ in rows],
            **{name: boxes[:, place] for place, name in enumerate(_CORNERS)},
            "source": [found.source for _, found in rows],
            "reason": [found.reason for _, found in rows],
            "detector": [self._detector] * len(rows),
        }
        return pa.table(columns, SCHEMA)

    def _load(self) -> _Rows:
        keys, boxes, whats = (
            [np.zeros(0, np.uint64)],
            [np.zeros((0, 4), np.float32)],
            [np.zeros(0, np.uint32)],
        )
        known = {what: number for number, what in enumerate(self._whats)}
        if self.path is not None and self.path.exists():
            for _, batch in _batches(open_part(self.path)):
                mine = batch.filter(self._is_mine(batch))
                keys.append(_numbers(mine["image_sha256"]) ^ _numbers(mine["text_sha256"]))
                boxes.append(_corners(mine))
                whats.append(_codes(mine, known))
        self._whats = list(known)
        key_N, box_N4, what_N = np.concatenate(keys), np.concatenate(boxes), np.concatenate(whats)
        # Of rows with one key the last one stays: the one that was added last.
        sorted_N, first_N = np.unique(key_N[::-1], return_index=True)
        last_N = len(key_N) - 1 - first_N
        return _Rows(sorted_N, box_N4[last_N], what_N[last_N])

    def _is_mine(self, batch: pa.RecordBatch) -> pa.Array:
        if self._detector is None:
            return pc.not_equal(batch["text_sha256"], "")
        return pc.equal(batch["detector"], self._detector)


def _batches(part: ParquetPart) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The checked rows of a table of boxes, with the number of the first.

    Raises:
        UserError: a column is missing or of another type, or a value is none that was written here.
    """
    for field in SCHEMA:
        if field.name not in part.schema.names:
            raise UserError(missing_column(part.path, field.name, part.schema.names))
        found = part.schema.field(field.name).type
        if found != field.type:
            raise UserError(f"{part.path}: column {field.name!r} is {found}, not {field.type}; {_ADVICE}")
    for first, batch in part.batches(SCHEMA.names, 65536):
        _check(part.path, first, batch)
        yield first, pa.record_batch(batch.columns, SCHEMA)


_ADVICE = "this is not a table of boxes that moonrec wrote; move it away, and the boxes are found again"


def _check(path: Path, first: int, batch: pa.RecordBatch) -> None:
    def refuse(bad_N: np.ndarray, what: str) -> None:
        if bad_N.any():
            raise UserError(f"{path}: row {first + int(bad_N.argmax())}: {what}; {_ADVICE}")

    for name in SCHEMA.names:
        refuse(batch[name].is_null().to_numpy(zero_copy_only=False), f"{name} is null")
    boxes_N4 = _corners(batch)
    x0, y0, x1, y1 = boxes_N4.T
    # Written so that a NaN is no box.
    good_N = (x0 >= 0) & (x0 < x1) & (x1 <= 1) & (y0 >= 0) & (y0 < y1) & (y1 <= 1)
    refuse(~good_N, "x0, y0, x1, y1 are not a box in 0..1")
    known = pc.is_in(batch["source"], value_set=pa.array(SOURCES)).to_numpy(zero_copy_only=False)
    refuse(~known, f"source is none of {', '.join(SOURCES)}")
    for name, may_be_empty in (("image_sha256", False), ("text_sha256", True)):
        digest = pc.match_substring_regex(batch[name], "^[0-9a-f]{64}$")
        if may_be_empty:
            digest = pc.or_(digest, pc.equal(batch[name], ""))
        refuse(~digest.to_numpy(zero_copy_only=False), f"{name} is no SHA-256 in hex")


def _corners(batch: pa.RecordBatch) -> np.ndarray:
    return np.stack([batch[name].to_numpy(zero_copy_only=False) for name in _CORNERS], 1)


def _codes(batch: pa.RecordBatch, known: dict[tuple[str, str], int]) -> np.ndarray:
    """The number of each row's (source, reason); new ones are added to `known`."""
    pairs = zip(batch["source"].to_pylist(), batch["reason"].to_pylist(), strict=True)
    codes = [known.setdefault(pair, len(known)) for pair in pairs]
    return np.array(codes, np.uint32)


def _numbers(digests: pa.Array) -> np.ndarray:
    """The first 64 bits of hexadecimal digests (N,), 0 for an empty one."""
    padded = pc.utf8_rpad(pc.utf8_slice_codeunits(digests, 0, _DIGITS), _DIGITS, padding="0")
    characters = np.frombuffer("".join(padded.to_pylist()).encode(), np.uint8).reshape(-1, _DIGITS)
    shifts = np.arange(_DIGITS - 1, -1, -1, dtype=np.uint64) * np.uint64(4)
    numbers: Sequence[int] | np.ndarray = (_NIBBLE[characters].astype(np.uint64) << shifts).sum(1)
    return np.asarray(numbers, np.uint64)
