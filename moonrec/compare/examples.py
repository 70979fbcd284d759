"""The pictures in `examples.json`, checked: queries, what each run found for them, neighbours.

The file holds base64 pictures that anybody may have put there: what does not decode is shown as missing, what
is larger than a tile is shrunk.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moonrec.images import BrokenImage, decode_image
from moonrec.report import Tile

FIXED = "fixed"
_SIDE, _BYTES, _LETTERS = 192, 24_000, 300
_MAX_QUERIES, _MAX_RESULTS = 100, 10
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


@dataclass(frozen=True)
class Example:
    """A query and what was found for it.

    Attributes:
        task: such as `image_to_item`; of neighbours the empty text.
        kind: `best`, `median`, `worst` or `fixed`: why this query is shown.
        rank: of the first hit, from 1; 0 without any; None where it is not told.
        query: what was asked.
        results: what was found, the first one first.
    """

    task: str
    kind: str
    rank: int | None
    query: Tile
    results: Sequence[Tile]

    @property
    def found(self) -> str:
        """In words, where its first hit is."""
        if self.rank is None:
            return ""
        return f"first hit at rank {self.rank:,}" if self.rank else "no hit"


def examples_of(found: Mapping[str, Any]) -> list[Example]:
    """The queries of all tasks in an `examples.json`; entries of another form are passed over."""
    tasks = found.get("tasks")
    entries = [
        (str(task), entry)
        for task, some in (tasks.items() if isinstance(tasks, Mapping) else ())
        for entry in (some if isinstance(some, list) else ())
    ]
    read = (_example(task, entry) for task, entry in entries[:_MAX_QUERIES])
    return [one for one in read if one is not None]


def neighbours_of(found: Mapping[str, Any]) -> list[Example]:
    """The products with their nearest ones in an `examples.json`."""
    some = found.get("neighbours")
    read = (_example("", entry) for entry in (some[:_MAX_QUERIES] if isinstance(some, list) else ()))
    return [one for one in read if one is not None]


def same_query(one: Tile) -> tuple[bytes | None, str]:
    """What a query shows: equal for one query in the examples of several runs."""
    return one.image, one.label


def _example(task: str, entry: Any) -> Example | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("query"), Mapping):
        return None
    rank, results = entry.get("rank"), entry.get("results")
    tiles = [_tile(one) for one in (results if isinstance(results, list) else ()) if isinstance(one, Mapping)]
    return Example(
        task=task,
        kind=_text(entry.get("kind")),
        rank=rank if isinstance(rank, int) and not isinstance(rank, bool) and rank >= 0 else None,
        query=_tile(entry["query"]),
        results=tiles[:_MAX_RESULTS],
    )


def _tile(found: Mapping[str, Any]) -> Tile:
    hit = found.get("hit")
    return Tile(
        image=_picture(found.get("image")),
        label=_text(found.get("label")),
        note=_text(found.get("note")),
        hit=hit if isinstance(hit, bool) else None,
    )


def _picture(text: Any) -> bytes | None:
    """The bytes of a small PNG or JPEG file; None where there is no picture."""
    if not isinstance(text, str):
        return None
    try:
        content = base64.b64decode(text, validate=True)
        image = decode_image(content, draft_size=_SIDE)
    except (binascii.Error, ValueError, BrokenImage):
        return None
    if content.startswith(_PICTURES) and len(content) <= _BYTES and max(image.size) <= _SIDE:
        return content
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _text(value: Any) -> str:
    return value[:_LETTERS] if isinstance(value, str) else ""
